//! Chunks and parts against the whole, in f64, for graphs made up at random.

use std::sync::Arc;

use super::super::*;
use crate::device::Weights;
use crate::device::reference::{Interpreter, Value};
use crate::weight::WeightBytes;
use crate::{DType, Silent, Weight};

/// Numbers without a pattern; the same at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn values(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.below(2001) as f64 / 1000.0 - 1.0).collect()
    }
}

fn weights(graph: &Graph, random: &mut Random) -> Weights {
    let mut weights = Weights::default();
    for tensor in (0..graph.nodes().len()).flat_map(|id| graph.tensors(id)) {
        let count: usize = tensor.shape.iter().product();
        let bytes: Vec<u8> =
            random.values(count).into_iter().flat_map(|x| (x as f32 * 0.5).to_le_bytes()).collect();
        weights.insert(Weight::new(tensor.name, DType::F32, tensor.shape, WeightBytes::Owned(bytes.into())));
    }
    weights
}

/// A convolution of any kind.
fn some_conv(random: &mut Random, out_channels: usize) -> Conv {
    let mode = random.of(&[PadMode::Zeros, PadMode::Zeros, PadMode::Replicate, PadMode::Reflect]);
    let mut conv = Conv::causal_3d(out_channels, 1);
    for axis in 0..3 {
        conv.kernel[axis] = random.of(&[1, 3, 3, 2]);
        conv.stride[axis] = random.of(&[1, 1, 1, 2]);
        let most = conv.kernel[axis] - 1;
        let (before, after) = random.of(&[(most / 2, most - most / 2), (most, 0), (0, most), (0, 0)]);
        conv.pad[axis] = Pad { before, after, mode };
    }
    conv
}

/// One more block behind `x`.
fn some_block(random: &mut Random, scope: &Scope<'_>, x: NodeId) -> NodeId {
    let channels = scope.channels(x);
    let axis = random.of(&[Axis::Frames, Axis::Height, Axis::Width]);
    match random.below(16) {
        0..=3 => scope.conv(x, some_conv(random, 4)),
        4 | 5 => {
            // A resnet.
            let rms = Op::RmsNorm { eps: 1e-6, floor: 0.0, scale: Some("gamma") };
            let hidden = scope.activation(scope.pp("norm").op(rms, &[x]), Activation::Silu);
            let space = Pad::both(1, random.of(&[PadMode::Zeros, PadMode::Replicate]));
            let time = Pad { before: 2, ..Pad::default() };
            let conv = Conv { pad: [time, space, space], ..Conv::causal_3d(channels, 3) };
            let hidden = scope.pp("0").conv(hidden, conv);
            scope.add(scope.pp("1").conv(hidden, Conv::same_2d(channels, 3)), x)
        }
        6 | 7 => {
            let x = scope.upsample(x, Upsample { frames: random.one_in(2), sides: random.one_in(2) });
            scope.conv(x, Conv::same_2d(4, 3))
        }
        8 => {
            // The first frame by itself, as Wan's upsampling in time.
            let slice = |start, end| scope.op(Op::Slice { axis: Axis::Frames, start, end }, &[x]);
            let (first, rest) = (slice(0, Some(1)), slice(1, None));
            let past = Pad { before: 2, ..Pad::default() };
            let time = Conv {
                kernel: [3, 1, 1],
                pad: [past, Pad::default(), Pad::default()],
                ..Conv::causal_3d(2 * channels, 1)
            };
            let twice = scope.conv(rest, time);
            let blocks = Blocks { factors: [2, 1, 1], order: BlockOrder::ChannelLast };
            let twice = scope.op(Op::DepthToSpace(blocks), &[twice]);
            scope.op(Op::Concat(Axis::Frames), &[first, twice])
        }
        9 => {
            let factors = random.of(&[[1, 2, 2], [2, 1, 1], [2, 2, 1]]);
            let blocks = Blocks { factors, order: BlockOrder::ColumnFirst };
            let conv = Conv::causal_3d(4 * blocks.size(), 1);
            scope.op(Op::DepthToSpace(blocks), &[scope.conv(x, conv)])
        }
        10 => {
            let blocks =
                Blocks { factors: random.of(&[[1, 2, 2], [1, 1, 2]]), order: BlockOrder::ChannelFirst };
            scope.pp("s").linear(scope.op(Op::SpaceToDepth(blocks), &[x]), 4)
        }
        11 => scope.op(Op::Repeat { axis, times: 2, interleaved: true }, &[x]),
        12 => scope.op(Op::Slice { axis, start: random.below(2), end: random.of(&[None, Some(3)]) }, &[x]),
        13 => {
            let both = scope.op(Op::Concat(Axis::Channels), &[x, scope.pp("l").linear(x, 2)]);
            scope.pp("m").linear(both, 4)
        }
        14 => scope.op(Op::LayerNorm { eps: 1e-6 }, &[x]),
        _ => match random.below(3) {
            0 => scope.group_norm(x, 2, 1e-6),
            1 => {
                let extent = random.of(&[Extent::All, Extent::Frame, Extent::Causal]);
                let qkv = ["q", "k", "v"].map(|name| scope.pp(name).linear(x, channels));
                scope.add(scope.attention(qkv, Attention { heads: 2, extent }), x)
            }
            _ => {
                scope.op(Op::Mul, &[scope.activation(x, Activation::Relu), scope.pp("l").linear(x, channels)])
            }
        },
    }
}

fn some_graph(random: &mut Random) -> Graph {
    let count = 1 + random.below(7);
    let graph = Graph::build(true, 4, |root, mut x| {
        for index in 0..count {
            x = some_block(random, &root.pp(index), x);
        }
        x
    });
    graph.unwrap()
}

/// Positions of a value along an axis.
fn positions(value: &Value, axis: Axis, at: std::ops::Range<usize>) -> Value {
    let inner: usize = value.shape.0[axis as usize + 1..].iter().product();
    let lines = value.data.chunks_exact(value.shape.axis(axis) * inner);
    let data = lines.flat_map(|line| &line[at.start * inner..at.end * inner]).copied().collect();
    Value { shape: value.shape.with_axis(axis, at.len()), data }
}

fn assert_same(found: &Value, expected: &Value, what: &str) {
    assert_eq!(found.shape, expected.shape, "{what}");
    for (index, (found, expected)) in found.data.iter().zip(&expected.data).enumerate() {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(error <= 1e-12, "{what}: value {index} is {found}, expected {expected}");
    }
}

/// Runs a stream, checks each chunk against the whole, and gives the multiply-adds of all chunks.
fn run(stream: &Stream, weights: &Weights, input: &Value, expected: &Value, what: &str) -> usize {
    let (mut states, mut work) = (Vec::new(), 0);
    for (index, Chunk { graph, input: part, output }) in stream.chunks.iter().enumerate() {
        let interpreter = Interpreter::new(graph, weights, true).unwrap();
        let part = (!part.is_empty()).then(|| positions(input, stream.axis, part.clone()));
        let shapes: Vec<Shape> = states.iter().map(|state: &Value| state.shape).collect();
        work += graph.work_of(&graph.shapes_with(part.as_ref().map(|part| part.shape), &shapes).unwrap());
        let (found, left) = interpreter.evaluate(part, states, &mut Silent).unwrap();
        assert_same(
            &found,
            &positions(expected, stream.axis, output.clone()),
            &format!("{what}, chunk {index}"),
        );
        states = left;
    }
    assert!(states.is_empty(), "{what}: nothing is left in the end");
    work
}

/// Ascending numbers, of which the last is `length`.
fn some_ends(random: &mut Random, length: usize) -> Vec<usize> {
    let chance = 1 + random.below(4);
    (1..=length).filter(|&end| end == length || random.one_in(chance)).collect()
}

#[test]
fn chunks_and_parts_are_the_whole() {
    let mut random = Random(7);
    let (mut checked, mut chunks, mut shared, mut refused) = (0, 0, 0, 0);
    while checked < 600 {
        let graph = some_graph(&mut random);
        let space = [1 + random.below(5), 3 + random.below(7), 3 + random.below(5)];
        let shape = Shape([1, 4, 1, 1, 1]).with_space(space);
        // Not every size fits every graph.
        let Ok(shapes) = graph.shapes(shape) else { continue };
        let output = shapes[graph.output()];
        if output.values().unwrap() > 40_000 {
            continue;
        }
        let graph = Arc::new(graph);
        let weights = weights(&graph, &mut random);
        let input = Value { shape, data: random.values(shape.values().unwrap()) };
        let interpreter = Interpreter::new(&graph, &weights, true).unwrap();
        let (expected, _) = interpreter.evaluate(Some(input.clone()), Vec::new(), &mut Silent).unwrap();
        for axis in [Axis::Frames, Axis::Height] {
            let what = format!("{axis} of {shape}:\n{}", graph.table(shape).unwrap());
            let ends = some_ends(&mut random, output.axis(axis));
            let keeps: Vec<bool> = match random.below(3) {
                0 => vec![true; shapes.len()],
                1 => vec![false; shapes.len()],
                _ => shapes.iter().map(|_| random.one_in(2)).collect(),
            };
            match Stream::new(&graph, axis, &ends, &shapes, &|id| keeps[id]) {
                Ok(stream) => {
                    let work = run(&stream, &weights, &input, &expected, &what);
                    let all_kept = axis == Axis::Frames && keeps.iter().all(|&keep| keep);
                    let mirrored = graph.nodes().iter().any(
                        |node| matches!(node.op, Op::Conv(conv) if conv.pad[0].mode == PadMode::Reflect),
                    );
                    assert!(!all_kept || mirrored || work <= graph.work(shape), "{what}: {work}");
                    chunks += stream.chunks.len();
                    shared += stream.chunks.len() - stream.graphs().count();
                }
                Err(Everywhere { node }) => {
                    refused += 1;
                    assert!(node < shapes.len());
                }
            }
            let start = random.below(output.axis(axis));
            let end = start + 1 + random.below(output.axis(axis) - start);
            let part = graph.part(axis, start..end, &shapes).unwrap();
            let interpreter = Interpreter::new(&Arc::new(part.graph), &weights, true).unwrap();
            let of_part = positions(&input, axis, part.input);
            let (found, left) = interpreter.evaluate(Some(of_part), Vec::new(), &mut Silent).unwrap();
            assert!(left.is_empty());
            assert_same(
                &found,
                &positions(&expected, axis, start..end),
                &format!("{start}..{end} of {what}"),
            );
        }
        checked += 1;
    }
    assert!(
        chunks > 2000 && shared > 200 && refused < 20,
        "{chunks} chunks, {shared} shared, {refused} refused"
    );
}

/// A decoder whose norms look at one position.
fn decoder() -> Graph {
    Graph::build(true, 4, |root, mut x| {
        for level in 0..3 {
            for index in 0..2 {
                let scope = root.pp(level).pp(index);
                let hidden = scope.activation(x, Activation::Silu);
                let past = Pad { before: 2, ..Pad::default() };
                let space = Pad::both(1, PadMode::Zeros);
                let conv = Conv { pad: [past, space, space], ..Conv::causal_3d(4, 3) };
                x = scope.add(scope.conv(hidden, conv), x);
            }
            if level < 2 {
                x = root
                    .pp(level)
                    .pp("up")
                    .conv(root.upsample(x, Upsample { frames: false, sides: true }), Conv::same_2d(4, 3));
            }
        }
        x
    })
    .unwrap()
}

#[test]
fn chunks_that_are_alike_share_a_graph() {
    let graph = decoder();
    let shapes = graph.shapes(Shape([1, 4, 9, 32, 4])).unwrap();
    let conv = |id: NodeId| matches!(graph.nodes()[id].op, Op::Conv(_) | Op::Add);
    let frames = Stream::new(&graph, Axis::Frames, &(1..=9).collect::<Vec<_>>(), &shapes, &conv).unwrap();
    // The first, the second, which sees less of the past than all others, those, and the last, which leaves nothing.
    assert_eq!(frames.graphs().count(), 4);
    // The input is outside, so that what is looked back at comes in once more.
    assert!(
        frames
            .chunks
            .iter()
            .all(|chunk| chunk.input == (chunk.output.start.saturating_sub(2)..chunk.output.end))
    );
    let rows: Vec<usize> = (1..=8).map(|band| band * 16).collect();
    let rows =
        Stream::new(&graph, Axis::Height, &rows, &shapes, &|id| graph.nodes()[id].op == Op::Add).unwrap();
    // The first, those in the middle, and the last, which has no row below it to look at.
    assert!((3..=4).contains(&rows.graphs().count()), "{}", rows.graphs().count());
}

#[test]
fn what_looks_everywhere_is_done_in_the_first_chunk() {
    let graph = Graph::build(false, 4, |root, x| {
        let x = root.pp("in").conv(x, Conv::same_2d(4, 3));
        let x = root.pp("norm").group_norm(x, 2, 1e-6);
        let x = root.upsample(x, Upsample { frames: false, sides: true });
        root.pp("out").conv(x, Conv::same_2d(2, 3))
    })
    .unwrap();
    assert_eq!(graph.last_that_sees_all(Axis::Height), Some(2));
    assert_eq!(decoder().last_that_sees_all(Axis::Height), None);
    let shapes = graph.shapes(Shape([1, 4, 1, 8, 4])).unwrap();
    let stream = Stream::new(&graph, Axis::Height, &[4, 8, 12, 16], &shapes, &|_| false).unwrap();
    let inputs: Vec<_> = stream.chunks.iter().map(|chunk| chunk.input.clone()).collect();
    assert_eq!(inputs, [0..8, 0..0, 0..0, 0..0]);
    // The state shrinks while it is used up.
    let mut states = Vec::new();
    let mut rows = Vec::new();
    for (index, chunk) in stream.chunks.iter().enumerate() {
        assert_eq!(chunk.graph.takes_input(), index == 0);
        let shapes = chunk.graph.shapes_with((index == 0).then_some(shapes[0]), &states).unwrap();
        states = chunk.graph.states_out().iter().map(|&id| shapes[id]).collect();
        rows.push(states.iter().map(|state| state.axis(Axis::Height)).sum::<usize>());
    }
    assert_eq!(rows, [7, 5, 3, 0]);
    assert!(!Arc::ptr_eq(&stream.chunks[0].graph, &stream.chunks[1].graph));
    assert!(Arc::ptr_eq(&stream.chunks[1].graph, &stream.chunks[2].graph));
}

#[test]
fn a_part_of_what_had_to_be_made_whole_is_all_that_is_carried_on() {
    let graph = Graph::build(false, 4, |root, x| {
        let qkv = ["q", "k", "v"].map(|name| root.pp(name).linear(x, 4));
        let x = root.add(root.attention(qkv, Attention { heads: 1, extent: Extent::Frame }), x);
        root.pp("out").conv(root.upsample(x, Upsample { frames: false, sides: true }), Conv::same_2d(8, 3))
    })
    .unwrap();
    let shape = Shape([1, 4, 1, 32, 2]);
    let shapes = graph.shapes(shape).unwrap();
    let part = graph.part(Axis::Height, 16..32, &shapes).unwrap();
    assert_eq!(part.input, 0..32);
    let of_part = part.graph.shapes(shape).unwrap();
    let work = |graph: &Graph, shapes: &[Shape]| graph.multiply_adds(graph.nodes().len() - 2, shapes);
    // Sixteen rows, and two beyond each border, as rows are doubled in pairs.
    assert_eq!(work(&part.graph, &of_part) * 64, graph.multiply_adds(graph.output(), &shapes) * 20);
}
