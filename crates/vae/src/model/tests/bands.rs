//! Work in bands and frame by frame against the same in one piece.

use std::sync::Arc;

use super::{Clock, mock, values};
use crate::device::cpu::{Cpu, CpuOptions, Isa, Numerics};
use crate::device::mock::MockOptions;
use crate::device::reference::Reference;
use crate::device::{Device, Weights};
use crate::graph::{
    Activation, Attention, Axis, BlockOrder, Blocks, Conv, Extent, Graph, NodeId, Op, Pad, PadMode, Scope,
    Upsample,
};
use crate::model::{Description, Half, Loaded, Model, Units};
use crate::weight::WeightBytes;
use crate::{
    Cut, DType, DecodeOptions, EncodeOptions, Forecast, HostTensor, Silent, Vae, VaeError, VaeInfo, Weight,
};

const CHANNELS: usize = 16;

/// `conv(silu(norm(x)))`, with a norm that looks at one position.
fn normed_conv(scope: &Scope<'_>, x: NodeId, conv: Conv) -> NodeId {
    let norm = Op::RmsNorm { eps: 0.0, floor: 1e-12, scale: Some("gamma") };
    let x = scope.activation(scope.pp("norm").op(norm, &[x]), Activation::Silu);
    scope.pp("conv").conv(x, conv)
}

fn conv(is_video: bool, channels: usize) -> Conv {
    let same = Conv::same_2d(channels, 3);
    match is_video {
        false => same,
        true => Conv {
            pad: [Pad { before: 2, ..Pad::default() }, same.pad[1], same.pad[2]],
            ..Conv::causal_3d(channels, 3)
        },
    }
}

fn resnet(scope: &Scope<'_>, x: NodeId, is_video: bool) -> NodeId {
    let hidden = normed_conv(&scope.pp(0), x, conv(is_video, CHANNELS));
    scope.add(normed_conv(&scope.pp(1), hidden, conv(is_video, CHANNELS)), x)
}

fn attention(scope: &Scope<'_>, x: NodeId) -> NodeId {
    let qkv = ["q", "k", "v"].map(|name| scope.pp(name).linear(x, CHANNELS));
    let attended = scope.attention(qkv, Attention { heads: 1, extent: Extent::Frame });
    scope.add(scope.pp("out").linear(attended, CHANNELS), x)
}

/// A decoder as Qwen-Image and Wan have it: attention in each frame at the beginning, then resnets and upsampling by four; of a
/// clip, the second of them doubles all frames but the first.
fn decoder(is_video: bool, has_late_norm: bool) -> Graph {
    let graph = Graph::build(is_video, 4, |root, x| {
        let scope = root.pp("decoder");
        let x = scope.pp("conv_in").conv(x, conv(is_video, CHANNELS));
        let mut x = attention(&scope.pp("attention"), resnet(&scope.pp("mid"), x, is_video));
        for level in 0..3 {
            let scope = scope.pp(level);
            x = scope.stage(resnet(&scope.pp("resnet"), x, is_video));
            if level == 2 {
                break;
            }
            if is_video && level == 1 {
                let slice = |start, end| scope.op(Op::Slice { axis: Axis::Frames, start, end }, &[x]);
                let past = Pad { before: 2, ..Pad::default() };
                let time = Conv {
                    kernel: [3, 1, 1],
                    pad: [past, Pad::default(), Pad::default()],
                    ..Conv::causal_3d(2 * CHANNELS, 1)
                };
                let (first, rest) = (slice(0, Some(1)), slice(1, None));
                let twice = scope.pp("time_conv").conv(rest, time);
                let blocks = Blocks { factors: [2, 1, 1], order: BlockOrder::ChannelLast };
                let twice = scope.op(Op::DepthToSpace(blocks), &[twice]);
                x = scope.op(Op::Concat(Axis::Frames), &[first, twice]);
            }
            let wide = scope.upsample(x, Upsample { frames: false, sides: true });
            x = scope.pp("up").conv(wide, Conv::same_2d(CHANNELS, 3));
        }
        if has_late_norm {
            x = scope.pp("late").group_norm(x, 4, 1e-6);
        }
        let x = normed_conv(&scope.pp("out"), x, conv(is_video, 3));
        scope.op(Op::Clamp { min: -1.0, max: 1.0 }, &[x])
    });
    graph.unwrap()
}

/// An encoder whose attention is at the end.
fn encoder() -> Graph {
    let graph = Graph::build(false, 3, |root, x| {
        let scope = root.pp("encoder");
        let mut x = scope.pp("conv_in").conv(x, Conv::same_2d(CHANNELS, 3));
        for level in 0..2 {
            let scope = scope.pp(level);
            x = resnet(&scope.pp("resnet"), x, false);
            let end = Pad { after: 1, ..Pad::both(0, PadMode::Zeros) };
            let down =
                Conv { stride: [1, 2, 2], pad: [Pad::default(), end, end], ..Conv::same_2d(CHANNELS, 3) };
            x = scope.pp("down").conv(x, down);
        }
        normed_conv(&scope.pp("out"), resnet(&scope.pp("mid"), x, false), Conv::same_2d(8, 3))
    });
    graph.unwrap()
}

fn model(decoder: Graph, device: impl Device + 'static) -> Box<dyn Vae> {
    let is_video = decoder.is_video();
    let encoder = encoder();
    let mut weights = Weights::default();
    for graph in [&decoder, &encoder] {
        for tensor in (0..graph.nodes().len()).flat_map(|id| graph.tensors(id)) {
            let fan_in = tensor.shape[1..].iter().product::<usize>().max(1);
            let scale = (3.0 / fan_in as f32).sqrt();
            let bytes = values(&tensor.shape).data.into_iter().flat_map(|x| (x * scale).to_le_bytes());
            let bytes = WeightBytes::Owned(bytes.collect());
            weights.insert(Weight::new(tensor.name, DType::F32, tensor.shape, bytes));
        }
    }
    let half = |graph| Half {
        graph,
        still: None,
        units: Units::default(),
        tiling: Err("it has no tiles"),
        framewise: None,
    };
    let info = VaeInfo {
        latent_channels: 4,
        out_channels: 3,
        spatial_factor: 4,
        temporal_factor: is_video.then_some(2),
        ..VaeInfo::default()
    };
    let description = Description { info, decoder: half(decoder), encoder: half(encoder) };
    let model = Model::new(description, Arc::new(device), &weights, !is_video).unwrap();
    Box::new(Loaded(Arc::new(model)))
}

fn with(memory: Option<usize>) -> DecodeOptions {
    DecodeOptions { memory, ..DecodeOptions::default() }
}

fn assert_close(found: &HostTensor, expected: &HostTensor, bound: f32, what: &str) {
    assert_eq!(found.shape, expected.shape, "{what}");
    for (found, expected) in found.data.iter().zip(&expected.data) {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(error <= bound, "{what}: {found} for {expected}");
    }
}

/// Decodes in no more than `limit` bytes, and checks the result against the whole and the forecast against what was needed.
/// `None` where it takes more.
fn decode_in(vae: &mut dyn Vae, shape: &[usize], limit: usize, bound: f32) -> Option<Forecast> {
    let less = vae.forecaster().unwrap().decode(shape, &with(Some(limit))).unwrap();
    if less.memory() > limit {
        return None;
    }
    let whole = vae.decode(values(shape), &with(Some(usize::MAX)), &mut Silent).unwrap();
    let what = format!("{shape:?} {:?} on {}", less.cut, vae.info().engine);
    let mut clock = Clock::never();
    let found = vae.decode(values(shape), &with(Some(limit)), &mut clock).unwrap();
    assert_close(&found, &whole, bound, &what);
    assert_eq!(vae.peak_memory(), Some(less.engine_memory), "{what}");
    assert_eq!(clock.heard.last().unwrap().0, less.work, "{what}");
    assert!(clock.heard.is_sorted_by(|a, b| a.0 < b.0), "{what}");
    Some(less)
}

/// Decodes in less and less memory, and gives the cuts.
fn decode_in_less(vae: &mut dyn Vae, shape: &[usize], bound: f32) -> Vec<Cut> {
    let all = vae.forecaster().unwrap().decode(shape, &with(Some(usize::MAX))).unwrap();
    assert_eq!(all.cut, None);
    let (mut cuts, mut limit) = (Vec::new(), all.memory() - 1);
    while let Some(less) = decode_in(vae, shape, limit, bound) {
        cuts.extend(less.cut);
        limit = less.memory() * 9 / 10;
    }
    cuts
}

#[test]
fn bands_are_the_whole_in_less_memory() {
    // Two pictures of 128 rows, and five frames of 128.
    for (is_video, shape) in [(false, &[2, 4, 32, 3][..]), (true, &[1, 4, 3, 32, 1])] {
        let mut vae = model(decoder(is_video, false), mock(MockOptions::default()));
        let cuts = decode_in_less(vae.as_mut(), shape, 1e-6);
        assert!(cuts.len() > 1, "{cuts:?}");
        assert!(cuts.iter().any(|cut| cut.bands > 1), "{cuts:?}");
        assert_eq!(cuts[0].frames.is_some(), is_video, "{cuts:?}");
    }
}

#[test]
fn bands_on_the_processor_are_the_whole_in_less_memory() {
    // Large enough that its memory, which is handed out in huge pages, is less in bands.
    let shape = [1, 4, 256, 64];
    for numerics in [Numerics::Fast, Numerics::Strict] {
        let isa = Isa::best();
        let options = CpuOptions { numerics, threads: Some(2), isa: Some(isa), ..CpuOptions::default() };
        let mut vae = model(decoder(false, false), Cpu::new(options).unwrap());
        let bound = match numerics {
            Numerics::Strict => 2e-6,
            Numerics::Fast if isa == Isa::Amx => 1e-3,
            Numerics::Fast => 1e-4,
        };
        let all = vae.forecaster().unwrap().decode(&shape, &with(None)).unwrap();
        let less = decode_in(vae.as_mut(), &shape, all.memory() * 3 / 4, bound);
        assert!(less.is_some_and(|less| less.cut.is_some()), "{less:?}");
    }
}

#[test]
fn encoding_in_bands_is_the_whole() {
    let mut vae = model(decoder(false, false), mock(MockOptions::default()));
    let shape = [1, 3, 99, 10];
    let with = |memory| EncodeOptions { memory, ..EncodeOptions::default() };
    let whole = vae.encode(values(&shape), &with(None), &mut Silent).unwrap();
    let forecaster = vae.forecaster().unwrap();
    let all = forecaster.encode(&shape, &with(None)).unwrap();
    let half = with(Some(all.memory() / 2));
    let less = forecaster.encode(&shape, &half).unwrap();
    assert!(all.cut.is_none() && less.cut.is_some() && less.memory() <= all.memory() / 2, "{less:?}");
    let found = vae.encode(values(&shape), &half, &mut Silent).unwrap();
    assert_close(&found, &whole, 1e-6, "encoded");
    assert_eq!(vae.peak_memory(), Some(less.engine_memory));
}

#[test]
fn what_looks_everywhere_late_is_done_in_one_piece() {
    let vae = model(decoder(false, true), mock(MockOptions::default()));
    let forecast = vae.forecaster().unwrap().decode(&[1, 4, 40, 6], &with(Some(1))).unwrap();
    assert_eq!(forecast.cut, None);
}

#[test]
fn a_tensor_that_is_too_large_is_made_in_bands() {
    let shape = [1, 4, 40, 6];
    let mut expected = model(decoder(false, false), Reference::default());
    let expected = expected.decode(values(&shape), &with(None), &mut Silent).unwrap();
    // Half of what the largest value takes, of 16 channels.
    let memory = 16 * 160 * 24 * 4 / 2;
    let device = mock(MockOptions { memory: 1 << 30, largest: memory, ..MockOptions::default() });
    let mut vae = model(decoder(false, false), device.clone());
    let forecast = vae.forecaster().unwrap().decode(&shape, &with(None)).unwrap();
    assert!(forecast.cut.is_some());
    let found = vae.decode(values(&shape), &with(None), &mut Silent).unwrap();
    assert_close(&found, &expected, 1e-6, "in bands");
    assert_eq!(device.used(), 0);
}

#[test]
fn cancelling_ends_it_between_bands_and_all_memory_comes_back() {
    let device = mock(MockOptions::default());
    let mut vae = model(decoder(true, false), device.clone());
    let shape = [1, 4, 3, 12, 2];
    let options = with(Some(vae.forecaster().unwrap().decode(&shape, &with(None)).unwrap().memory() / 3));
    for cancel_after in [0, 1, 40, 90] {
        let mut clock = Clock { cancel_after, ..Clock::never() };
        let result = vae.decode(values(&shape), &options, &mut clock);
        assert!(matches!(result, Err(VaeError::Cancelled)), "{result:?}");
        assert_eq!(clock.heard.len(), cancel_after + 1, "nothing is told afterwards");
        assert_eq!(device.used(), 0, "what was left for the next chunk is gone");
    }
}

#[test]
fn who_looks_at_layers_sees_them_whole() {
    struct Looks(Vec<Vec<usize>>);
    impl crate::Observer for Looks {
        fn wants(&self, stage: &str) -> bool {
            stage == "decoder.2"
        }
        fn activation(&mut self, _: &str, value: HostTensor) {
            self.0.push(value.shape);
        }
    }
    let mut vae = model(decoder(false, false), mock(MockOptions::default()));
    let mut looks = Looks(Vec::new());
    vae.decode(values(&[1, 4, 40, 6]), &with(Some(1)), &mut looks).unwrap();
    assert_eq!(looks.0, [[1, 16, 160, 24]]);
}

#[test]
fn cuts_are_said_in_words() {
    let cut = |bands, frames| Cut { bands, rows: 64, frames }.to_string();
    assert_eq!(cut(12, None), "in 12 bands of 64 rows");
    assert_eq!(cut(1, Some(4)), "4 frames at a time");
    assert_eq!(cut(3, Some(1)), "in 3 bands of 64 rows, frame by frame");
}
