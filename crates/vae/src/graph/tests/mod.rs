//! What is known of graphs without running them, and the interpreter against PyTorch.

mod ops;
mod reach;
mod stream;

use super::*;

/// A picture's graph with one of everything that has work: two convolutions, a norm, attention.
fn small() -> Graph {
    Graph::build(false, 2, |root, x| {
        let x = root.pp("conv_in").conv(x, Conv::same_2d(4, 3));
        let x = root.pp("conv_in").stage(x);
        let normed = root.pp("norm").group_norm(x, 2, 1e-6);
        let [q, k, v] = ["q", "k", "v"].map(|name| root.pp(name).linear(normed, 4));
        let attended = root.attention([q, k, v], Attention { heads: 1, extent: Extent::All });
        let x = root.add(root.pp("out").linear(attended, 4), x);
        let x = root.upsample(x, Upsample { frames: false, sides: true });
        root.pp("conv_out").conv(x, Conv { bias: false, ..Conv::same_2d(3, 3) })
    })
    .unwrap()
}

#[test]
fn shapes_follow_from_the_input() {
    let graph = small();
    assert_eq!((graph.in_channels(), graph.out_channels(), graph.is_video()), (2, 3, false));
    assert_eq!(graph.output_shape(Shape([2, 2, 1, 5, 7])).unwrap(), Shape([2, 3, 1, 10, 14]));
    for (shape, words) in [
        ([1, 3, 1, 5, 7], "3 channels, expected 2"),
        ([1, 2, 1, 0, 7], "its value would be"),
        ([1, 2, 1, 1 << 40, 1 << 40], "its value would be"),
        ([1, 2, 1, usize::MAX, 1], "its value would be"),
        ([usize::MAX, 2, 1, 1, 1], "its value would be"),
        ([1, 2, usize::MAX, 2, 2], "its value would be"),
    ] {
        let error = graph.shapes(Shape(shape)).unwrap_err().to_string();
        assert!(error.contains(words), "{shape:?}: {error}");
    }
    let valid = Graph::build(false, 1, |root, x| {
        root.conv(x, Conv { pad: [Pad::default(); 3], ..Conv::same_2d(1, 3) })
    });
    let error = valid.unwrap().output_shape(Shape([1, 1, 1, 2, 3])).unwrap_err().to_string();
    assert!(error.contains("2 positions are fewer"), "{error}");
}

#[test]
fn channels_that_do_not_fit_are_no_graph() {
    let build = |make: &dyn Fn(&Scope<'_>, NodeId) -> NodeId| {
        Graph::build(false, 6, |root, x| make(&root.pp("here"), x)).unwrap_err().to_string()
    };
    for (error, words) in [
        (build(&|scope, x| scope.group_norm(x, 4, 1e-6)), "6 channels do not divide into 4 groups"),
        (build(&|scope, x| scope.conv(x, Conv { groups: 4, ..Conv::same_2d(8, 3) })), "into 4 groups"),
        (build(&|scope, x| scope.add(x, scope.linear(x, 5))), "add of 1 x 6 x 1 x 1 and 1 x 5 x 1 x 1"),
        (
            build(&|scope, x| scope.attention([x; 3], Attention { heads: 4, extent: Extent::All })),
            "do not divide into 4 heads",
        ),
    ] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn work_is_that_of_the_definitions_and_never_overflows() {
    let shape = Shape([2, 2, 1, 3, 5]);
    let positions = 2 * 15;
    let convs = positions * (9 * 2 * 4) + 4 * positions * (9 * 4 * 3);
    let attention = positions * (4 * 4 * 4) + positions * 2 * 4 * 15;
    assert_eq!(small().work(shape), convs + attention);

    let of_attention = |extent, shape: Shape| {
        let graph = Graph::build(true, 8, |root, x| root.attention([x; 3], Attention { heads: 2, extent }));
        graph.unwrap().work(shape)
    };
    let shape = Shape([1, 8, 3, 2, 5]);
    assert_eq!(of_attention(Extent::All, shape), 30 * 30 * 2 * 8);
    assert_eq!(of_attention(Extent::Frame, shape), 30 * 10 * 2 * 8);
    // Three frames of ten positions see 10, 20 and 30.
    assert_eq!(of_attention(Extent::Causal, shape), 10 * (10 + 20 + 30) * 2 * 8);
    let huge = Shape([1, 8, 1, 1 << 30, 1 << 29]);
    assert_eq!(of_attention(Extent::All, huge), usize::MAX);

    let depthwise = Graph::build(false, 4, |root, x| root.conv(x, Conv { groups: 4, ..Conv::same_2d(4, 3) }));
    assert_eq!(depthwise.unwrap().work(Shape([1, 4, 1, 2, 2])), 4 * 9 * 4);
}

#[test]
fn tensors_are_named_by_their_nodes() {
    let graph = small();
    let tensors: Vec<_> = (0..graph.nodes().len()).flat_map(|id| graph.tensors(id)).collect();
    let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
    assert_eq!(find("conv_in.weight").unwrap().shape, [4, 2, 3, 3]);
    assert_eq!(find("conv_in.bias").unwrap().shape, [4]);
    assert_eq!(
        (&find("q.weight").unwrap().shape, find("q.weight").unwrap().may_have_more_axes),
        (&vec![4, 4], true)
    );
    assert!(find("norm.bias").is_some() && find("conv_out.bias").is_none());
    assert_eq!(tensors.len(), 2 * 6 + 1);
    let time = Graph::build(true, 4, |root, x| {
        let conv = Conv { kernel: [3, 1, 1], groups: 2, ..Conv::causal_3d(8, 1) };
        root.pp("time_conv").conv(x, conv)
    });
    assert_eq!(time.unwrap().tensors(1)[0].shape, [8, 2, 3, 1, 1]);
}

#[test]
fn values_live_until_their_last_use() {
    let graph = small();
    let shape = Shape([1, 2, 1, 8, 8]);
    let shapes = graph.shapes(shape).unwrap();
    // x, norm(x), q, k and v: five values of 4 channels; less than what the upsampled value and the output take.
    let (at_attention, at_end) = (5 * 4 * 64 * 4, (4 + 3) * 256 * 4);
    assert_eq!(graph.peak_bytes(&shapes), at_end.max(at_attention));
}

#[test]
fn people_can_read_it() {
    let graph = small();
    let shape = Shape([1, 2, 1, 512, 512]);
    let table = graph.table(shape).unwrap();
    for part in ["conv 3x3", "conv_in", "1 x 3 x 1024 x 1024", "group norm, 2 groups", "GFLOP", "no bias"] {
        assert!(table.contains(part), "{table} has no {part}");
    }
    assert_eq!(table.lines().count(), graph.nodes().len() + 2);
    let dot = graph.dot("decoder", shape).unwrap();
    assert!(dot.starts_with("digraph \"decoder\" {") && dot.ends_with("}\n"));
    let edges: usize = graph.nodes().iter().map(|node| node.inputs.len()).sum();
    assert_eq!(dot.matches(" -> ").count(), edges + 1);
}
