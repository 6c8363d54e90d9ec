//! What is fused, and that what is not comes to the same.

mod operations;

use std::sync::Arc;

use kernels::Upsampling;

use super::fuse::{Kind, fuse};
use super::{Cpu, CpuOptions, Isa, Numerics, Storage};
use crate::config::Config;
use crate::device::reference::Reference;
use crate::device::{Device, Mode, States, Weights};
use crate::graph::{
    Activation, Attention, Axis, Conv, Extent, Graph, NodeId, Op, Pad, Scope, Shape, Stream, Upsample,
};
use crate::weight::WeightBytes;
use crate::{DType, HostTensor, Silent, Weight, families};

/// Values in [-1, 1] without a pattern.
fn values(count: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| ((i * 7919 + seed * 104_729).wrapping_mul(2_654_435_761) >> 7 & 1023) as f32;
    (0..count).map(|i| value(i) / 512.0 - 1.0).collect()
}

fn weights(graph: &Graph) -> Weights {
    let mut weights = Weights::default();
    for (seed, tensor) in (0..graph.nodes().len()).flat_map(|id| graph.tensors(id)).enumerate() {
        let count = tensor.shape.iter().product();
        let fan_in = tensor.shape[1..].iter().product::<usize>().max(1);
        let scale = (3.0 / fan_in as f32).sqrt();
        let bytes = values(count, seed).into_iter().flat_map(|value| (value * scale).to_le_bytes());
        let bytes = WeightBytes::Owned(bytes.collect());
        weights.insert(Weight::new(tensor.name, DType::F32, tensor.shape, bytes));
    }
    weights
}

fn picture(make: impl Fn(&Scope<'_>, NodeId) -> NodeId) -> Graph {
    Graph::build(false, 16, |root, x| make(root, x)).unwrap()
}

fn kinds(graph: &Graph) -> Vec<Kind> {
    fuse(graph).into_iter().map(|fused| fused.kind).collect()
}

/// That there is a kernel for each node of a graph.
fn assert_has_kernels(name: &str, graph: &Graph) {
    let steps = fuse(graph);
    let alone: Vec<_> = steps.iter().filter(|step| step.kind == Kind::Alone).collect();
    let titles: Vec<_> = alone.iter().map(|step| graph.nodes()[step.output].title()).collect();
    assert!(alone.is_empty(), "{name}: {titles:?}");
    // Each node is done once.
    let mut nodes: Vec<_> = steps.iter().flat_map(|step| step.nodes.clone()).collect();
    nodes.sort_unstable();
    let all = 0..graph.nodes().len();
    let inputs = |id: &NodeId| !matches!(graph.nodes()[*id].op, Op::Input { .. });
    assert_eq!(nodes, all.filter(inputs).collect::<Vec<_>>(), "{name}");
}

#[test]
fn the_families_are_kernels_through_and_through() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/configs");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let mut configs: Vec<_> = files.map(|path| Config::read(&path).unwrap()).collect();
    assert!(configs.len() > 4, "the configurations of real models are there");
    // And each class as it is by default.
    configs.extend(families::CLASS_NAMES.iter().map(|name| Config::of_class(*name, name)));
    for config in configs {
        let name = config.class_name().unwrap().to_owned();
        let description = families::describe(&config).unwrap();
        for graph in [&description.decoder, &description.encoder].iter().flat_map(|half| half.graphs()) {
            assert_has_kernels(&name, graph);
        }
    }
}

#[test]
fn the_attention_of_the_families_is_one_step() {
    for name in ["sd-v1", "sdxl", "flux", "hunyuan-video"] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/configs/");
        let config = Config::read(format!("{folder}{name}.json").as_ref()).unwrap();
        let description = families::describe(&config).unwrap();
        for graph in [&description.decoder.graph, &description.encoder.graph] {
            let steps = fuse(graph);
            assert_eq!(steps.iter().filter(|step| matches!(step.kind, Kind::Attention(_))).count(), 1);
        }
    }
}

#[test]
fn a_value_that_is_needed_is_not_used_up() {
    // The residual is needed once more, behind the sum: both are done in the memory of what the convolution made.
    let graph = picture(|root, x| {
        let y = root.add(root.pp("a").conv(x, Conv::same_2d(16, 3)), x);
        root.op(Op::Mul, &[y, x])
    });
    assert_eq!(
        kinds(&graph)[1..],
        [Kind::InPlace { x: 1, other: Some(0) }, Kind::InPlace { x: 2, other: Some(0) }]
    );
    // Both are needed once more: a copy is added to.
    let graph = picture(|root, x| {
        let y = root.pp("a").conv(x, Conv::same_2d(16, 3));
        let sum = root.add(y, x);
        root.op(Op::Concat(Axis::Channels), &[sum, y, x])
    });
    assert_eq!(kinds(&graph)[1..], [Kind::InPlace { x: 1, other: Some(0) }, Kind::Copy]);
    assert_right(graph, Shape([2, 16, 1, 5, 6]));
    // Here it is not, so that its memory becomes the sum's.
    let graph = picture(|root, x| {
        let y = root.pp("a").conv(x, Conv::same_2d(16, 1));
        root.add(root.pp("b").conv(x, Conv::same_2d(16, 3)), y)
    });
    let Kind::Conv { residual: Some(residual), .. } = kinds(&graph)[1] else { panic!("{:?}", kinds(&graph)) };
    assert_eq!(residual, 1);
    // The other part of the sum is what the convolution reads: both would be in one memory.
    let graph = picture(|root, x| root.add(root.conv(x, Conv::same_2d(16, 3)), x));
    assert_eq!(kinds(&graph)[1], Kind::InPlace { x: 1, other: Some(0) });
    // A stage is to be seen, so that what it is is made.
    let graph = picture(|root, x| {
        let x = root.pp("up").upsample(x, Upsample { frames: false, sides: true });
        root.pp("conv").conv(root.pp("up").stage(x), Conv::same_2d(16, 3))
    });
    assert_eq!(kinds(&graph)[0], Kind::Copy);
    let Kind::Conv { upsampling: Upsampling { space: false, .. }, .. } = kinds(&graph)[1] else {
        panic!("{:?}", kinds(&graph))
    };
}

/// How far a value may be off, of a small graph.
fn bound(isa: Isa, numerics: Numerics, storage: Storage) -> f32 {
    match (numerics, storage) {
        (_, Storage::F16) => 4e-3,
        (Numerics::Fast, _) if isa == Isa::Amx => 4e-4,
        (Numerics::Fast, _) => 1e-4,
        _ => 2e-5,
    }
}

/// Runs a graph on the processor in all its ways, and in f64.
fn assert_right(graph: Graph, shape: Shape) {
    let graph = Arc::new(graph);
    let weights = weights(&graph);
    let input = HostTensor::new(shape.0.to_vec(), values(shape.values().unwrap(), 99));
    let run = |device: &dyn Device, mode| {
        let plan = device.prepare(&graph, &weights).unwrap();
        device.begin_peak();
        let output = plan.run(&input, mode, &mut Silent).unwrap();
        if let Some(memory) = plan.forecast(shape, mode).unwrap() {
            assert_eq!(Some(memory.device), device.peak_memory(), "{}", device.describe());
        }
        output
    };
    let expected = run(&Reference { exact: true }, Mode::default());
    for isa in Isa::available() {
        for (numerics, storage) in [
            (Numerics::Fast, Storage::F32),
            (Numerics::Strict, Storage::F32),
            (Numerics::Strict, Storage::F16),
        ] {
            let device =
                Cpu::new(CpuOptions { isa: Some(isa), numerics, storage, threads: Some(2) }).unwrap();
            let found = run(&device, Mode::default());
            let bound = bound(isa, numerics, storage);
            assert_eq!(found.shape, expected.shape);
            for (found, expected) in found.data.iter().zip(&expected.data) {
                let error = (found - expected).abs() / expected.abs().max(1.0);
                assert!(error <= bound, "{}: {found} for {expected}", device.describe());
            }
        }
    }
}

#[test]
fn what_no_kernel_does_is_done_all_the_same() {
    let shape = Shape([2, 16, 1, 6, 5]);
    // A kernel of 5×5, and attention without the layers around it.
    let graph = picture(|root, x| {
        let y = root.activation(root.pp("0").conv(x, Conv::same_2d(32, 5)), Activation::Relu);
        let y = root.pp("1").conv(y, Conv::same_2d(16, 3));
        root.attention([x, y, y], Attention { heads: 2, extent: Extent::All })
    });
    let alone = kinds(&graph).iter().filter(|kind| **kind == Kind::Alone).count();
    assert_eq!(alone, 2);
    assert_right(graph, shape);
}

#[test]
fn fused_steps_are_their_nodes() {
    let shape = Shape([2, 16, 1, 7, 6]);
    assert_right(
        picture(|root, x| {
            let normed = root.activation(root.pp("n").group_norm(x, 4, 1e-6), Activation::Silu);
            let y = root.pp("0").conv(normed, Conv::same_2d(24, 3));
            let short = root.pp("s").conv(x, Conv::same_2d(24, 1));
            // The sum may be written either way round.
            let y = root
                .add(short, root.pp("1").conv(root.activation(y, Activation::Silu), Conv::same_2d(24, 3)));
            let y = root.upsample(y, Upsample { frames: false, sides: true });
            root.pp("2").conv(y, Conv { bias: false, ..Conv::same_2d(16, 3) })
        }),
        shape,
    );
    // A convolution without neighbours whose input is needed once more.
    assert_right(
        picture(|root, x| {
            let y = root.pp("0").conv(x, Conv::same_2d(16, 1));
            let z = root.pp("1").conv(y, Conv::same_2d(16, 3));
            root.op(Op::Mul, &[root.pp("2").conv(y, Conv::same_2d(16, 1)), root.add(z, y)])
        }),
        shape,
    );
}

/// Positions of a tensor along an axis.
fn positions(tensor: &HostTensor, axis: Axis, at: std::ops::Range<usize>) -> HostTensor {
    let inner: usize = tensor.shape[axis as usize + 1..].iter().product();
    let lines = tensor.data.chunks_exact(tensor.shape[axis as usize] * inner);
    let data = lines.flat_map(|line| &line[at.start * inner..at.end * inner]).copied().collect();
    let mut shape = tensor.shape.clone();
    shape[axis as usize] = at.len();
    HostTensor::new(shape, data)
}

/// A decoder of which each part can be made by itself.
fn in_parts(is_video: bool) -> Graph {
    let norm = Op::RmsNorm { eps: 1e-6, floor: 0.0, scale: Some("gamma") };
    let build = Graph::build(is_video, 16, |root, mut x| {
        for level in 0..2 {
            for index in 0..2 - level {
                let scope = root.pp(level).pp(index);
                let conv = match is_video {
                    true => Conv {
                        pad: [
                            Pad { before: 2, ..Pad::default() },
                            Conv::same_2d(16, 3).pad[1],
                            Conv::same_2d(16, 3).pad[2],
                        ],
                        ..Conv::causal_3d(16, 3)
                    },
                    false => Conv::same_2d(16, 3),
                };
                let hidden = scope.activation(scope.pp("norm").op(norm.clone(), &[x]), Activation::Silu);
                x = scope.add(scope.conv(hidden, conv), x);
            }
            if level == 0 {
                let x2 = root.upsample(x, Upsample { frames: false, sides: true });
                x = root.pp("up").conv(x2, Conv::same_2d(16, 3));
            }
        }
        root.pp("out").conv(x, Conv::same_2d(3, 3))
    });
    build.unwrap()
}

#[test]
fn chunks_are_the_whole_and_take_what_was_foretold() {
    for (is_video, axis, shape, ends) in [
        (false, Axis::Height, [2, 16, 1, 20, 9], vec![12, 20, 32, 40]),
        (true, Axis::Height, [1, 16, 2, 20, 5], vec![7, 20, 40]),
        (true, Axis::Frames, [1, 16, 6, 8, 5], vec![1, 2, 4, 6]),
    ] {
        let graph = Arc::new(in_parts(is_video));
        let shapes = graph.shapes(Shape(shape)).unwrap();
        let keeps = |id: NodeId| axis == Axis::Frames || matches!(graph.nodes()[id].op, Op::Add);
        let stream = Stream::new(&graph, axis, &ends, &shapes, &keeps).unwrap();
        let weights = weights(&graph);
        let input = HostTensor::new(shape.to_vec(), values(Shape(shape).values().unwrap(), 5));
        let whole = Reference { exact: true }.prepare(&graph, &weights).unwrap();
        let whole = whole.run(&input, Mode::default(), &mut Silent).unwrap();
        for isa in Isa::available() {
            for (numerics, storage) in [
                (Numerics::Fast, Storage::F32),
                (Numerics::Strict, Storage::F32),
                (Numerics::Strict, Storage::F16),
            ] {
                let options = CpuOptions { isa: Some(isa), storage, numerics, threads: Some(2) };
                let device = Cpu::new(options).unwrap();
                let what = format!("{axis} on {}", device.describe());
                let (mut states, mut foreseen) = (States::default(), States::default());
                device.begin_peak();
                let mut memory = None;
                for chunk in &stream.chunks {
                    let plan = device.prepare(&chunk.graph, &weights).unwrap();
                    let part =
                        (!chunk.input.is_empty()).then(|| positions(&input, axis, chunk.input.clone()));
                    let found =
                        plan.run_chunk(part.as_ref(), &mut states, Mode::default(), &mut Silent).unwrap();
                    let expected = positions(&whole, axis, chunk.output.clone());
                    assert_eq!(found.shape, expected.shape, "{what}");
                    let bound = bound(isa, numerics, storage);
                    for (found, expected) in found.data.iter().zip(&expected.data) {
                        let error = (found - expected).abs() / expected.abs().max(1.0);
                        assert!(error <= bound, "{what}: {found} for {expected}");
                    }
                    let shape = part.map(|part| crate::device::shape_of(&part).unwrap());
                    memory = plan.forecast_chunk(shape, &mut foreseen, Mode::default()).unwrap();
                }
                assert_eq!(device.peak_memory(), memory.map(|memory| memory.device), "{what}");
            }
        }
    }
}
