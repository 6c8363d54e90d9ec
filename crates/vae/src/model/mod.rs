//! A loaded autoencoder: two graphs on a device, whatever its family.

mod bands;
mod batch;
mod framewise;
mod pieces;
mod progress;
mod tiling;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::bands::{Bands, Choice, Chooser};
pub(crate) use self::framewise::Framewise;
use self::pieces::Pieces;
use self::progress::Progress;
pub(crate) use self::tiling::{End, Tiling};
use crate::device::{Device, Mode, Plan, Weights};
use crate::graph::{Graph, Shape};
use crate::posterior::LEAST_LOGVAR;
use crate::{
    DecodeOptions, DeviceError, EncodeOptions, Forecast, Forecaster, HostTensor, Observer, Vae, VaeError,
    VaeInfo,
};

/// What a family makes of a configuration.
pub(crate) struct Description {
    /// What callers learn of the model; `engine` and `can_encode` are filled in when it is loaded.
    pub(crate) info: VaeInfo,
    /// From latents, scaled for the model, to pictures.
    pub(crate) decoder: Half,
    /// From pictures to the moments of latents.
    pub(crate) encoder: Half,
}

/// A graph, and how what goes into it may be cut, as diffusers does it.
pub(crate) struct Half {
    pub(crate) graph: Graph,
    /// What a single frame goes through, for a model of videos that does less to it; `graph` need not take one then.
    pub(crate) still: Option<Graph>,
    pub(crate) units: Units,
    /// Why not, for a model that is not cut in tiles.
    pub(crate) tiling: Result<Tiling, &'static str>,
    pub(crate) framewise: Option<Framewise>,
}

/// What an input is made of that is worked on whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    /// Frames behind the first one make groups of so many. Those that fill no group are left out.
    pub(crate) frames: usize,
    /// Height and width must be multiples of so many.
    pub(crate) sides: usize,
}

/// Any frames and any sides.
impl Default for Units {
    fn default() -> Self {
        Self { frames: 1, sides: 1 }
    }
}

impl Half {
    /// Its graphs.
    pub(crate) fn graphs(&self) -> impl Iterator<Item = &Graph> {
        [&self.graph].into_iter().chain(&self.still)
    }
}

/// A loaded model. It can be shared, as its plans can: what changes is on the device.
pub(crate) struct Model {
    info: VaeInfo,
    device: Arc<dyn Device>,
    decoder: Ready,
    encoder: Option<Ready>,
    /// Bytes of the weights, and those of them that are no part of a mapped file.
    weights: [usize; 2],
    can_forecast: bool,
    bands: Chooser,
}

/// A half that a device is ready to run.
struct Ready {
    way: Way,
    still: Option<Way>,
    units: Units,
    tiling: Result<Tiling, &'static str>,
    framewise: Option<Framewise>,
}

/// What inputs go through.
struct Way {
    whole: Prepared,
    /// What each tile goes through, where that is not the same.
    tile: Option<Prepared>,
    /// What tiles go through once they are put together, where that is anything.
    finish: Option<Prepared>,
}

/// A graph with its plan.
struct Prepared {
    graph: Arc<Graph>,
    plan: Box<dyn Plan>,
}

/// Work that was checked, and how it is done.
struct Job<'a> {
    way: &'a Way,
    batch: usize,
    /// Items that go through together.
    together: usize,
    /// Of one item.
    pieces: Pieces,
    /// Of one item, where it is not done in one piece.
    bands: Option<Arc<Bands>>,
    mode: Mode,
    /// Multiply-adds of all items.
    work: usize,
}

impl Half {
    fn ready(self, device: &dyn Device, weights: &Weights) -> Result<Ready, DeviceError> {
        let Self { graph, still, units, tiling, framewise } = self;
        let way = |graph: Graph| Way::new(graph, tiling.ok(), device, weights);
        let still = still.map(way).transpose()?;
        Ok(Ready { way: way(graph)?, still, units, tiling, framewise })
    }
}

impl Way {
    fn new(
        graph: Graph,
        tiling: Option<Tiling>,
        device: &dyn Device,
        weights: &Weights,
    ) -> Result<Self, DeviceError> {
        let prepare = |graph: Graph| {
            let graph = Arc::new(graph);
            let plan = device.prepare(&graph, weights)?;
            Ok::<_, DeviceError>(Prepared { graph, plan })
        };
        let (mut tile, mut finish) = (None, None);
        if let Some(End { nodes, is_done }) = tiling.and_then(|tiling| tiling.end) {
            let (head, tail) = graph.split(nodes).ok_or_else(|| {
                DeviceError::Unsupported(format!("tiles without the last {nodes} nodes of the graph"))
            })?;
            tile = Some(prepare(head)?);
            finish = is_done.then(|| prepare(tail)).transpose()?;
        }
        Ok(Self { whole: prepare(graph)?, tile, finish })
    }
}

impl Job<'_> {
    /// What each piece goes through.
    fn prepared(&self) -> &Prepared {
        self.way.tile.as_ref().filter(|_| self.pieces.is_tiled()).unwrap_or(&self.way.whole)
    }

    /// What the pieces go through when they are put together.
    fn finish(&self) -> Option<&Prepared> {
        self.way.finish.as_ref().filter(|_| self.pieces.is_tiled())
    }
}

impl Model {
    /// A model of these graphs on a device. `weights` are those of the graphs; the encoder is left out unless
    /// `can_encode`.
    pub(crate) fn new(
        description: Description,
        device: Arc<dyn Device>,
        weights: &Weights,
        can_encode: bool,
    ) -> Result<Self, DeviceError> {
        let Description { info, decoder, encoder } = description;
        let decoder = decoder.ready(&device, weights)?;
        let encoder = can_encode.then(|| encoder.ready(&device, weights)).transpose()?;
        let info = VaeInfo { engine: device.describe(), can_encode, ..info };
        let smallest = Shape([1, decoder.in_channels(), 1, 1, 1]);
        // One latent may be too small for some graph, which says nothing of larger ones.
        let can_forecast = !matches!(decoder.way.whole.plan.forecast(smallest, Mode::default()), Ok(None));
        let bands = Chooser::new(weights.clone());
        Ok(Self { info, device, decoder, encoder, weights: weights.bytes(), can_forecast, bands })
    }

    /// The work of a decode.
    fn decoding(&self, latents: &[usize], options: &DecodeOptions) -> Result<Job<'_>, VaeError> {
        let ready = &self.decoder;
        let shape = self.check(latents, ready.in_channels()).ok_or_else(|| {
            let (channels, axes) = (ready.in_channels(), self.axes(["h", "w", "f"]));
            let empty = if latents.contains(&0) { " with no axis empty" } else { "" };
            VaeError::Input(format!(
                "latents of shape {latents:?} cannot be decoded, expected [B, {channels}, {axes}]{empty}"
            ))
        })?;
        let tiling = options.tiling.then(|| ready.tiling("be decoded in tiles")).transpose()?;
        let [frames, height, width] = shape.space();
        let positions = height.saturating_mul(width);
        let framewise = ready.framewise.filter(|_| options.framewise);
        let pieces = Pieces::new(shape.with_batch(1), framewise, tiling);
        let mode = Mode { lean: options.lean };
        self.job(ready, shape, pieces, positions, mode, options.memory).map_err(|limit| {
            let frames = if self.is_video() { format!("{frames} x ") } else { String::new() };
            VaeError::Input(format!(
                "latents of {frames}{height} x {width} are too large: a layer would need more than the {limit} bytes \
                 that one tensor may have"
            ))
        })
    }

    /// The work of an encode.
    fn encoding(&self, pixels: &[usize], options: &EncodeOptions) -> Result<Job<'_>, VaeError> {
        let ready = self.encoder.as_ref().ok_or_else(|| {
            VaeError::Input("this model cannot encode: its checkpoint holds a decoder only".to_owned())
        })?;
        let factor = self.info.spatial_factor;
        let wrong = |what: &str| {
            let (channels, axes) = (ready.in_channels(), self.axes(["H", "W", "F"]));
            VaeError::Input(format!(
                "pixels of shape {pixels:?} cannot be encoded, expected [B, {channels}, {axes}]{what}"
            ))
        };
        let sides = pixels.len().saturating_sub(2);
        let is_small = pixels[sides..].iter().any(|&side| side < factor);
        // An empty side is a small one.
        let larger: Vec<_> =
            pixels.iter().enumerate().map(|(axis, &length)| length.max(usize::from(axis >= sides))).collect();
        let shape = self.check(&larger, ready.in_channels()).ok_or_else(|| wrong(""))?;
        if is_small {
            return Err(wrong(&format!(" with sides of {factor} pixels at least")));
        }
        let units = ready.units;
        let [frames, height, width] = shape.space();
        if !height.is_multiple_of(units.sides) || !width.is_multiple_of(units.sides) {
            return Err(wrong(&format!(" with sides that are multiples of {} pixels", units.sides)));
        }
        let frames = (frames - 1) / units.frames * units.frames + 1;
        let shape = shape.with_space([frames, height, width]);
        let tiling = options.tiling.then(|| ready.tiling("encode in tiles")).transpose()?;
        let positions = (height / factor).saturating_mul(width / factor);
        let framewise = ready.framewise.filter(|_| options.framewise);
        let pieces = Pieces::new(shape.with_batch(1), framewise, tiling);
        self.job(ready, shape, pieces, positions, Mode::default(), options.memory).map_err(|limit| {
            let frames = match self.is_video() {
                true => format!("video of {frames} frames of"),
                false => "picture of".to_owned(),
            };
            VaeError::Input(format!(
                "a {frames} {width} x {height} pixels is too large: a layer would need more than the {limit} bytes \
                 that one tensor may have"
            ))
        })
    }

    /// How an input of this shape is worked off, whose latents have so many positions, in so much memory if that can be.
    ///
    /// # Errors
    /// The bytes that one tensor may have, where one would need more.
    fn job<'a>(
        &self,
        ready: &'a Ready,
        shape: Shape,
        pieces: Pieces,
        positions: usize,
        mode: Mode,
        memory: Option<usize>,
    ) -> Result<Job<'a>, usize> {
        let [frames, ..] = shape.space();
        let way = ready.still.as_ref().filter(|_| frames == 1).unwrap_or(&ready.way);
        let graph = &way.whole.graph;
        // The whole first: its values must be countable before its pieces are counted.
        let shapes = graph.shapes(shape.with_batch(1)).map_err(|_| self.device.limits().max_tensor_bytes)?;
        let whole = self.whole_job(way, shape, pieces, positions, mode);
        if pieces.is_cut() || !bands::help(graph, &shapes) {
            return whole;
        }
        // A device that cannot tell is given the whole, if it can take that.
        let takes =
            whole.as_ref().map_or(Ok(usize::MAX), |job| self.forecast(job).map(|takes| takes.memory()));
        let Ok(takes) = takes else { return whole };
        if takes <= memory.unwrap_or(bands::WHOLE) {
            return whole;
        }
        let choice = Choice { shapes: &shapes, batch: shape.batch(), mode, memory, whole: takes };
        match self.bands.choose(&self.device, graph, &choice) {
            Some(bands) => Ok(Job {
                way,
                batch: shape.batch(),
                together: 1,
                pieces,
                mode,
                work: bands.work.saturating_mul(shape.batch()),
                bands: Some(bands),
            }),
            None => whole,
        }
    }

    /// The same, in pieces as diffusers has them, or in one.
    fn whole_job<'a>(
        &self,
        way: &'a Way,
        shape: Shape,
        pieces: Pieces,
        positions: usize,
        mode: Mode,
    ) -> Result<Job<'a>, usize> {
        let limits = self.device.limits();
        let refused = limits.max_tensor_bytes;
        let batch = shape.batch();
        // Of what is cut, one after the other, which needs less memory and gives the same: nothing of one is seen by another.
        let together = match pieces.is_cut() || way.whole.graph.is_video() {
            true => 1,
            false => (limits.batch_positions / positions.max(1)).clamp(1, batch),
        };
        let mut job = Job { way, batch, together, pieces, bands: None, mode, work: 0 };
        let mut work = 0usize;
        for piece in pieces.shapes() {
            let graph = &job.prepared().graph;
            let shapes = graph.shapes(piece).map_err(|_| refused)?;
            if shapes.iter().any(|shape| shape.bytes() > refused) {
                return Err(refused);
            }
            work = work.saturating_add(graph.work_of(&shapes));
        }
        job.work = work.saturating_mul(batch);
        Ok(job)
    }

    fn run(
        &self,
        job: &Job<'_>,
        input: HostTensor,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        self.device.begin_peak();
        // Who looks at values between layers sees them whole.
        let looks = |observer: &dyn Observer| {
            let mut stages = job.way.whole.graph.nodes().iter().flat_map(|node| &node.stages);
            stages.any(|stage| observer.wants(stage))
        };
        let bands = job.bands.as_ref().filter(|_| !looks(observer));
        let whole = || job.way.whole.graph.work(job.pieces.whole()).saturating_mul(job.batch);
        let work = if bands.is_some() == job.bands.is_some() { job.work } else { whole() };
        let mut progress = Progress::new(observer, work, self.is_video())?;
        let input = with_frames(input, self.is_video());
        let output = batch::in_parts(&input, job.together, |part| {
            if let Some(bands) = bands {
                return Ok(bands.run(&part, job.mode, &mut progress)?);
            }
            let output = job.pieces.run(&part, |piece| {
                let output = job.prepared().plan.run(piece, job.mode, &mut progress)?;
                progress.end_piece();
                Ok(output)
            })?;
            match job.finish() {
                Some(finish) => Ok(finish.plan.run(&output, job.mode, &mut progress)?),
                None => Ok(output),
            }
        })?;
        Ok(without_frames(output, self.is_video()))
    }

    /// What a job takes.
    fn forecast(&self, job: &Job<'_>) -> Result<Forecast, VaeError> {
        let Prepared { graph, plan } = job.prepared();
        let of_piece = |shape: Shape| graph.output_shape(shape).map_or(usize::MAX, Shape::bytes);
        let whole = job.pieces.whole();
        if let Some(bands) = &job.bands {
            let host = batch::memory(job.batch, 1, whole.bytes(), of_piece(whole)).saturating_add(bands.host);
            return Ok(Forecast {
                engine_memory: bands.memory.map_or(bands.largest, |memory| memory.device),
                host_memory: host.saturating_add(bands.memory.map_or(0, |memory| memory.host)),
                work: job.work,
                lean: bands.memory.map_or(job.mode.lean, |memory| memory.lean),
                cut: Some(bands.cut),
            });
        }
        let mut shapes: Vec<Shape> =
            job.pieces.shapes().map(|shape| shape.with_batch(job.together)).collect();
        shapes.sort_unstable_by_key(|shape| shape.0);
        shapes.dedup();
        let whole = job.pieces.whole();
        // Tiles that are put together.
        let joined = graph.output_shape(whole).ok().zip(job.finish());
        let runs = shapes.into_iter().map(|shape| (plan, shape));
        let runs = runs.chain(joined.map(|(shape, finish)| (&finish.plan, shape)));
        let (mut device, mut host, mut lean) = (0, 0, job.mode.lean);
        for (plan, shape) in runs {
            if let Some(memory) = plan.forecast(shape, job.mode)? {
                (device, host, lean) = (device.max(memory.device), host.max(memory.host), memory.lean);
            }
        }
        Ok(Forecast {
            engine_memory: device,
            host_memory: batch::memory(job.batch, job.together, whole.bytes(), of_piece(whole))
                .saturating_add(job.pieces.memory(of_piece))
                .saturating_add(joined.map_or(0, |(shape, _)| shape.bytes()))
                .saturating_add(host),
            work: job.work,
            lean,
            cut: None,
        })
    }

    pub(crate) fn forecast_decode(
        &self,
        latents: &[usize],
        options: &DecodeOptions,
    ) -> Result<Forecast, VaeError> {
        self.forecast(&self.decoding(latents, options)?)
    }

    pub(crate) fn forecast_encode(
        &self,
        pixels: &[usize],
        options: &EncodeOptions,
    ) -> Result<Forecast, VaeError> {
        self.forecast(&self.encoding(pixels, options)?)
    }

    pub(crate) fn tile_latent_min_size(&self) -> Option<usize> {
        self.decoder.tiling.ok().map(Tiling::limit)
    }

    pub(crate) fn tile_sample_min_size(&self) -> Option<usize> {
        self.encoder.as_ref()?.tiling.ok().map(Tiling::limit)
    }

    fn is_video(&self) -> bool {
        self.info.temporal_factor.is_some()
    }

    /// The axes behind batch and channels, for messages.
    fn axes(&self, [height, width, frames]: [&str; 3]) -> String {
        if self.is_video() { format!("{frames}, {height}, {width}") } else { format!("{height}, {width}") }
    }

    /// The shape of a tensor with these channels, if no axis of it is empty.
    fn check(&self, shape: &[usize], channels: usize) -> Option<Shape> {
        let shape = match *shape {
            [batch, found, height, width] if !self.is_video() => [batch, found, 1, height, width],
            [batch, found, frames, height, width] if self.is_video() => [batch, found, frames, height, width],
            _ => return None,
        };
        (shape[1] == channels && !shape.contains(&0)).then_some(Shape(shape))
    }
}

impl Ready {
    /// Channels of what goes in.
    fn in_channels(&self) -> usize {
        self.way.whole.graph.in_channels()
    }

    /// How it is cut in tiles.
    fn tiling(&self, what: &str) -> Result<Tiling, VaeError> {
        self.tiling.map_err(|why| VaeError::Input(format!("this model cannot {what}: {why}")))
    }
}

/// `[N, C, H, W]` of a picture to `[N, C, 1, H, W]`.
fn with_frames(mut tensor: HostTensor, is_video: bool) -> HostTensor {
    if !is_video {
        tensor.shape.insert(2, 1);
    }
    tensor
}

/// The way back.
fn without_frames(mut tensor: HostTensor, is_video: bool) -> HostTensor {
    if !is_video {
        tensor.shape.remove(2);
    }
    tensor
}

/// The moments of latents that are certain: their logarithm of the variance is the least that there is.
fn without_variance(HostTensor { mut shape, data }: HostTensor) -> HostTensor {
    let image = shape[1..].iter().product::<usize>().max(1);
    let mut moments = Vec::with_capacity(2 * data.len());
    for latents in data.chunks_exact(image) {
        moments.extend_from_slice(latents);
        moments.resize(moments.len() + image, LEAST_LOGVAR);
    }
    shape[1] *= 2;
    HostTensor::new(shape, moments)
}

/// A model as it is given to callers.
pub(crate) struct Loaded(pub(crate) Arc<Model>);

impl Vae for Loaded {
    fn info(&self) -> &VaeInfo {
        &self.0.info
    }

    fn decode(
        &mut self,
        latents: HostTensor,
        options: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let job = self.0.decoding(&latents.shape, options)?;
        self.0.run(&job, latents, observer)
    }

    fn tile_latent_min_size(&self) -> Option<usize> {
        self.0.tile_latent_min_size()
    }

    fn encode(
        &mut self,
        pixels: HostTensor,
        options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let job = self.0.encoding(&pixels.shape, options)?;
        let [kept, ..] = job.pieces.whole().space();
        let pixels = match pixels.shape[..] {
            [_, _, frames, _, _] if frames > kept => framewise::frames(&pixels, 0, kept),
            _ => pixels,
        };
        let sides = [pixels.shape.len() - 2, pixels.shape.len() - 1].map(|axis| pixels.shape[axis]);
        let mut moments = self.0.run(&job, pixels, observer)?;
        if moments.shape[1] == self.0.info.latent_channels {
            moments = without_variance(moments);
        }
        if !job.pieces.is_tiled() {
            return Ok(moments);
        }
        // Pixels that make no whole latent may make one in the last tiles; diffusers leaves it out.
        Ok(tiling::crop(&moments, [0, 0], sides.map(|side| side / self.0.info.spatial_factor)))
    }

    fn tile_sample_min_size(&self) -> Option<usize> {
        self.0.tile_sample_min_size()
    }

    fn forecaster(&self) -> Option<Arc<Forecaster>> {
        self.0.can_forecast.then(|| Arc::new(Forecaster::new(Arc::clone(&self.0))))
    }

    fn peak_memory(&self) -> Option<usize> {
        self.0.device.peak_memory()
    }

    fn weights_memory(&self) -> usize {
        self.0.weights[0]
    }

    fn copied_weights_memory(&self) -> usize {
        self.0.weights[1]
    }

    fn release(&mut self) {
        self.0.device.release();
    }

    fn reserve(&mut self, bytes: usize) {
        self.0.device.reserve(bytes);
    }
}
