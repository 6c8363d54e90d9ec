//! Every operation of the interpreter against PyTorch; see tools/make_op_fixtures.py.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::SafeTensors;

use super::super::{shape, *};
use crate::device::reference::{Value, eval};
use crate::{DType, HostTensor};

/// Each case's operation.
fn ops() -> Vec<(&'static str, Op)> {
    let one = Pad::default();
    let zeros = Pad::both(1, PadMode::Zeros);
    let reflect = Pad::both(1, PadMode::Reflect);
    let end = Pad { after: 1, ..one };
    let past = Pad { before: 2, ..one };
    let causal = Conv::causal_3d(3, 3);
    let blocks = |factors, order| Blocks { factors, order };
    let attention = |heads, extent| Op::Attention(Attention { heads, extent });
    let repeat = |interleaved| Op::Repeat { axis: Axis::Channels, times: 2, interleaved };
    let upsample = |frames| Op::Upsample(Upsample { frames, sides: true });
    vec![
        ("conv2d", Op::Conv(Conv::same_2d(4, 3))),
        ("conv2d-down", Op::Conv(Conv { stride: [1, 2, 2], pad: [one, end, end], ..Conv::same_2d(4, 3) })),
        ("conv2d-groups", Op::Conv(Conv { groups: 2, bias: false, ..Conv::same_2d(6, 3) })),
        ("conv3d-causal", Op::Conv(causal)),
        ("conv3d-stride", Op::Conv(Conv { stride: [2, 2, 1], ..causal })),
        ("conv3d-zeros", Op::Conv(Conv { pad: [past, zeros, zeros], ..causal })),
        (
            "conv3d-reflect",
            Op::Conv(Conv { pad: [Pad::both(1, PadMode::Replicate), reflect, reflect], ..causal }),
        ),
        (
            "conv3d-time",
            Op::Conv(Conv { kernel: [3, 1, 1], pad: [past, one, one], bias: false, ..Conv::causal_3d(4, 3) }),
        ),
        ("linear", Op::Linear(Linear { out_channels: 5, bias: true })),
        ("group-norm", Op::GroupNorm { groups: 3, eps: 1e-2 }),
        ("rms-norm", Op::RmsNorm { eps: 0.0, floor: 1e-12, scale: Some("gamma") }),
        ("rms-norm-plain", Op::RmsNorm { eps: 1e-2, floor: 0.0, scale: None }),
        ("layer-norm", Op::LayerNorm { eps: 1e-2 }),
        ("scale-shift", Op::ScaleShift),
        ("affine", Op::Affine { scale: 2.0, shift: -1.0 }),
        ("clamp", Op::Clamp { min: -0.5, max: 1.0 }),
        ("silu", Op::Activation(Activation::Silu)),
        ("relu", Op::Activation(Activation::Relu)),
        ("tanh", Op::Activation(Activation::Tanh { scale: 3.0 })),
        ("gelu", Op::Activation(Activation::Gelu)),
        ("swiglu", Op::Activation(Activation::SwiGlu)),
        ("add", Op::Add),
        ("mul", Op::Mul),
        ("concat", Op::Concat(Axis::Frames)),
        ("slice", Op::Slice { axis: Axis::Frames, start: 1, end: None }),
        ("repeat", repeat(false)),
        ("repeat-each", repeat(true)),
        ("upsample", upsample(false)),
        ("upsample-frames", upsample(true)),
        ("depth-to-space", Op::DepthToSpace(blocks([1, 2, 2], BlockOrder::ChannelFirst))),
        ("depth-to-space-column", Op::DepthToSpace(blocks([1, 2, 2], BlockOrder::ColumnFirst))),
        ("depth-to-space-3d", Op::DepthToSpace(blocks([2, 2, 2], BlockOrder::ChannelLast))),
        ("space-to-depth", Op::SpaceToDepth(blocks([1, 2, 2], BlockOrder::ChannelFirst))),
        ("space-to-depth-3d", Op::SpaceToDepth(blocks([2, 2, 2], BlockOrder::ChannelLast))),
        ("attention", attention(1, Extent::All)),
        ("attention-heads", attention(2, Extent::All)),
        ("attention-frame", attention(1, Extent::Frame)),
        ("attention-causal", attention(1, Extent::Causal)),
    ]
}

#[test]
fn every_operation_is_what_pytorch_computes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/ops.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let in_file: BTreeSet<_> =
        file.names().iter().map(|name| name.rsplit_once('.').unwrap().0.to_owned()).collect();
    let ops = ops();
    assert_eq!(
        in_file,
        ops.iter().map(|(name, _)| (*name).to_owned()).collect(),
        "the cases are those of the file"
    );

    for (name, op) in ops {
        let find = |part: &str| {
            let view = file.tensor(&format!("{name}.{part}")).ok()?;
            Some(HostTensor::from_le_bytes(view.shape().to_vec(), DType::F32, view.data()).unwrap())
        };
        let all =
            |kind: char| (0..).map_while(|index: usize| find(&format!("{kind}{index}"))).collect::<Vec<_>>();
        let inputs: Vec<_> = all('x').iter().map(|tensor| Value::of_host(tensor).unwrap()).collect();
        let weights: Vec<Vec<f64>> =
            all('w').iter().map(|tensor| tensor.data.iter().map(|&w| f64::from(w)).collect()).collect();
        let shapes: Vec<_> = inputs.iter().map(|value| value.shape).collect();
        let shape = shape::output(&op, &shapes).unwrap();
        let found = eval(&op, &inputs.iter().collect::<Vec<_>>(), &weights, shape);
        let expected = find("y").unwrap();
        assert_eq!(found.shape.0, *expected.shape, "{name}");
        for (index, (found, &expected)) in found.data.iter().zip(&expected.data).enumerate() {
            let expected = f64::from(expected);
            // The expected values are rounded to f32.
            assert!(
                (found - expected).abs() <= 1e-7 * expected.abs().max(1.0),
                "{name}: value {index} is {found}, expected {expected}"
            );
        }
    }
}
