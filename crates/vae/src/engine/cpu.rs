//! The engine for processors: every step is one call of a fused kernel.

mod video;

use std::sync::Arc;

use kernels::{Context, Features, OutOfMemory, Pool, Pre, Stopped, Watched};
pub use kernels::{Isa, Numerics, Storage};

use super::{Activation, Choice, Conv2dSpec, Engine, GroupNormSpec, Limits, Step, Watch};
use crate::{EngineError, HostTensor, Weight};

/// How the engine works; the defaults are what nearly everybody wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Worker threads; as many as the process may use by default.
    pub threads: Option<usize>,
    /// Instruction set; the best that the machine has by default.
    pub isa: Option<Isa>,
    /// How activations are stored between layers.
    pub storage: Storage,
    /// How exact convolutions have to be.
    pub numerics: Numerics,
}

/// Runs models on the processor. Cloning shares its threads and memory.
#[derive(Clone)]
pub struct CpuEngine(Arc<Context>);

/// A convolution's weights, as they lie in the checkpoint.
pub struct Conv2d {
    spec: Conv2dSpec,
    weight: Weight,
    bias: Vec<f32>,
}

/// A linear layer's weights, as they lie in the checkpoint, and its bias.
struct Linear {
    weight: Weight,
    bias: Vec<f32>,
}

/// An attention block's weights.
pub struct Attention {
    norm: kernels::GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl CpuEngine {
    /// An engine with its own threads.
    ///
    /// # Errors
    /// When the system gives no threads, or the machine has not the instruction set that was asked for.
    pub fn new(options: CpuOptions) -> Result<Self, EngineError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
            return Err(EngineError::Unsupported(format!(
                "this machine has not the instruction set {}; it has {}",
                isa.name(),
                names.join(", ")
            )));
        }
        let threads = match options.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let pool = Pool::new(threads).map_err(|error| EngineError::Device(error.to_string()))?;
        Ok(Self(Arc::new(Context {
            isa,
            pool,
            arena: kernels::Arena::default(),
            storage: options.storage,
            numerics: options.numerics,
        })))
    }
}

impl CpuEngine {
    /// Lets go of a weight's pages. Those of a rehearsal may be in use by the engine that it rehearses for.
    fn done_with(&self, weight: &Weight) {
        if !self.0.is_rehearsal() {
            weight.release_pages();
        }
    }
}

impl From<OutOfMemory> for EngineError {
    fn from(OutOfMemory(bytes): OutOfMemory) -> Self {
        Self::OutOfMemory(bytes)
    }
}

impl From<Stopped> for EngineError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::OutOfMemory(error) => error.into(),
            Stopped::Cancelled => Self::Cancelled,
        }
    }
}

impl Conv2d {
    fn kernel(&self) -> kernels::Conv2d<'_> {
        kernels::Conv2d {
            weight: self.weight.view(),
            bias: &self.bias,
            in_channels: self.spec.in_channels,
            out_channels: self.spec.out_channels,
            kernel: self.spec.kernel,
            stride: self.spec.stride,
            padding: self.spec.padding,
            ..kernels::Conv2d::default()
        }
    }

    /// Runs the kernel and lets go of the weights' pages: the next decode reads them from the file's cache again.
    fn run<T>(
        &self,
        engine: &CpuEngine,
        watch: &mut Watch<'_>,
        run: impl FnOnce(kernels::Conv2d<'_>, &mut Watched<'_>) -> Result<T, Stopped>,
    ) -> Result<T, EngineError> {
        let result = watched(watch, |watched| run(self.kernel(), watched));
        engine.done_with(&self.weight);
        result
    }
}

impl Linear {
    fn new((weight, bias): (Weight, Weight)) -> Self {
        Self { weight, bias: bias.to_f32() }
    }

    fn kernel(&self) -> (kernels::WeightView<'_>, &[f32]) {
        (self.weight.view(), &self.bias)
    }
}

impl Attention {
    fn kernel(&self) -> kernels::Attention<'_> {
        kernels::Attention {
            norm: Some((&self.norm).into()),
            heads: 1,
            to_q: self.to_q.kernel(),
            to_k: self.to_k.kernel(),
            to_v: self.to_v.kernel(),
            to_out: self.to_out.kernel(),
        }
    }

    /// Lets go of the weights' pages, as [`Conv2d::run`] does.
    fn release_pages(&self, engine: &CpuEngine) {
        for layer in [&self.to_q, &self.to_k, &self.to_v, &self.to_out] {
            engine.done_with(&layer.weight);
        }
    }
}

fn pre(norm: &kernels::GroupNorm, activation: Activation) -> Pre<'_> {
    let silu = (activation == Activation::Silu).then_some(kernels::Activation::Silu);
    Pre { norm: Some(norm.into()), activation: silu }
}

impl Engine for CpuEngine {
    type Tensor = Features;
    type Conv2d = Conv2d;
    type GroupNorm = kernels::GroupNorm;
    type Attention = Attention;

    fn describe(&self) -> String {
        let threads = self.0.pool.threads();
        let storage = match self.0.storage {
            Storage::F32 => "",
            Storage::F16 => ", f16 storage",
        };
        let numerics = match self.0.numerics {
            Numerics::Fast => "",
            Numerics::Strict => ", strict",
        };
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu, {}, {threads} thread{plural}{storage}{numerics}", self.0.isa.name())
    }

    fn limits(&self) -> Limits {
        Limits { max_tensor_bytes: isize::MAX as usize }
    }

    fn release(&self) {
        self.0.arena.release();
    }

    fn reserve(&self, bytes: usize) {
        self.0.reserve(bytes);
    }

    fn lean(&self) -> Option<Self> {
        (self.0.storage != Storage::F16)
            .then(|| Self(Arc::new(Context { storage: Storage::F16, ..Context::clone(&self.0) })))
    }

    fn rehearsal(&self) -> Option<Self> {
        Some(Self(Arc::new(self.0.rehearsal())))
    }

    fn peak_memory(&self) -> usize {
        self.0.arena.peak()
    }

    fn begin_peak(&self) {
        self.0.arena.begin_peak();
    }

    fn shape(&self, tensor: &Features) -> Vec<usize> {
        tensor.shape().to_vec()
    }

    fn explain(&self, x: &Features, step: Step<'_, Self>) -> Choice {
        let (conv, pre, upsampled) = match step {
            Step::Conv2d(conv) => (conv, Pre::default(), false),
            Step::NormActConv2d(norm, activation, conv) => (conv, pre(norm, activation), false),
            Step::Upsample2xConv2d(conv) => (conv, Pre::default(), true),
            Step::Attention(_) => {
                return Choice {
                    algorithm: "blocks of keys",
                    reason: "a running softmax: the matrix of scores never exists",
                };
            }
        };
        let plan = conv.kernel().plan(&self.0, x, pre);
        if conv.spec.kernel == 1 {
            let algorithm = match plan.algorithm {
                kernels::Algorithm::Tiles => "matrix product, in bf16 tiles",
                _ => "matrix product",
            };
            return Choice { algorithm, reason: "1×1: one product with the weights" };
        }
        Choice { algorithm: plan.algorithm.name(upsampled), reason: plan.reason }
    }

    fn conv2d(&self, spec: Conv2dSpec, weight: Weight, bias: Option<Weight>) -> Result<Conv2d, EngineError> {
        if !matches!(spec.kernel, 1 | 3) {
            return Err(EngineError::Unsupported(format!(
                "a convolution with a {0}×{0} kernel ({1}); this engine has 1×1 and 3×3",
                spec.kernel, weight.name
            )));
        }
        let bias = bias.map_or_else(Vec::new, |bias| bias.to_f32());
        Ok(Conv2d { spec, weight, bias })
    }

    fn group_norm(
        &self,
        spec: GroupNormSpec,
        weight: Weight,
        bias: Weight,
    ) -> Result<kernels::GroupNorm, EngineError> {
        Ok(kernels::GroupNorm {
            groups: spec.groups,
            eps: f64::from(spec.eps),
            weight: weight.to_f32(),
            bias: bias.to_f32(),
        })
    }

    fn attention(
        &self,
        norm: kernels::GroupNorm,
        to_q: (Weight, Weight),
        to_k: (Weight, Weight),
        to_v: (Weight, Weight),
        to_out: (Weight, Weight),
    ) -> Result<Attention, EngineError> {
        Ok(Attention {
            norm,
            to_q: Linear::new(to_q),
            to_k: Linear::new(to_k),
            to_v: Linear::new(to_v),
            to_out: Linear::new(to_out),
        })
    }

    fn upload(&self, host: &HostTensor) -> Result<Features, EngineError> {
        let &[batch, channels, height, width] = host.shape.as_slice() else {
            return Err(EngineError::Unsupported(format!(
                "a tensor of shape {:?}; expected 4 axes",
                host.shape
            )));
        };
        let features = Features::from_nchw(&self.0.arena, [batch, channels, height, width], &host.data)?;
        Ok(features.stored(&self.0)?)
    }

    fn download(&self, tensor: &Features) -> Result<HostTensor, EngineError> {
        Ok(HostTensor::new(tensor.shape().to_vec(), tensor.to_nchw()))
    }

    fn run_conv2d(&self, x: Features, conv: &Conv2d, watch: &mut Watch<'_>) -> Result<Features, EngineError> {
        conv.run(self, watch, |kernel, watched| {
            if conv.spec.kernel == 1 && conv.spec.stride == 1 && conv.spec.padding == [0; 4] {
                kernel.run_pointwise(&self.0, x, watched)
            } else {
                kernel.run(&self.0, &x, Pre::default(), None, watched)
            }
        })
    }

    fn run_norm_act_conv2d(
        &self,
        x: &Features,
        norm: &kernels::GroupNorm,
        activation: Activation,
        conv: &Conv2d,
        residual: Option<Features>,
        watch: &mut Watch<'_>,
    ) -> Result<Features, EngineError> {
        conv.run(self, watch, |kernel, watched| {
            kernel.run(&self.0, x, pre(norm, activation), residual, watched)
        })
    }

    fn run_upsample2x_conv2d(
        &self,
        x: Features,
        conv: &Conv2d,
        watch: &mut Watch<'_>,
    ) -> Result<Features, EngineError> {
        conv.run(self, watch, |kernel, watched| kernel.run_upsampled(&self.0, &x, watched))
    }

    fn run_attention(
        &self,
        x: Features,
        attention: &Attention,
        watch: &mut Watch<'_>,
    ) -> Result<Features, EngineError> {
        let result = watched(watch, |watched| attention.kernel().run(&self.0, x, watched));
        attention.release_pages(self);
        result
    }
}

/// Runs a kernel that asks `watch` whether to go on.
fn watched<T>(
    watch: &mut Watch<'_>,
    run: impl FnOnce(&mut Watched<'_>) -> Result<T, Stopped>,
) -> Result<T, EngineError> {
    Ok(run(&mut Watched::new(&mut |share| watch(share).is_ok()))?)
}
