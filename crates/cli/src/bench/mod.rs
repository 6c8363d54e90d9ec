//! `remote-vae bench`: how fast this machine decodes, and in how much memory. The result is checked before it is timed.

mod args;
mod check;
mod explain;

use std::fmt;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde_json::{Value, json};
use vae::latents::Scaling;
use vae::{Cancelled, DecodeOptions, HostTensor, LayerRun, Observer, Vae, VaeError, VaeInfo};

pub(crate) use self::args::BenchArgs;
use self::check::{Checked, check, checked_latents};
use self::explain::Explainer;
use crate::source::Source;
use crate::{machine, terminal};

/// What is measured when nothing else is asked for.
const SIZES: [[usize; 2]; 2] = [[512, 512], [1024, 1024]];

/// The same for a video, and of how many frames: latents `[1, 16, 3, 40, 64]` of HunyuanVideo.
const VIDEO_SIZES: [[usize; 2]; 1] = [[320, 512]];
const VIDEO_FRAMES: usize = 9;

/// The commit that this was built from, with `-dirty` where files had been changed; see `build.rs`.
const COMMIT: Option<&str> = option_env!("REMOTE_VAE_COMMIT");

/// How a picture is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Whole,
    Tiled,
}

/// What was measured of one resolution.
#[derive(Debug)]
struct Measured {
    /// Of all runs, in rising order; not empty.
    times: Vec<Duration>,
    peak_memory: Option<u64>,
}

pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    let [model] = args.model.0.as_slice() else {
        bail!("--model names {} models, but one is measured", args.model.0.len());
    };
    let source = model.source.clone();
    let mut vae = source.clone().load(args.engine.engine()?, args.engine.load_mode())?;
    let info = vae.info().clone();
    let sizes = sizes(&args, &info)?;
    ensure!(
        !args.explain || info.temporal_factor.is_none(),
        "--explain tells of models of pictures, and {source} is one of videos"
    );

    let checked = check(&source, vae.as_mut(), args.engine.options())?;
    let mut rows = Vec::new();
    for size in sizes {
        let whole = measure(vae.as_mut(), How::Whole, size, args.runs)?;
        let [_, height, width] = size.latents(&info);
        let cut = vae.tile_latent_min_size().is_some_and(|tile| height.max(width) > tile);
        let tiled = cut.then(|| measure(vae.as_mut(), How::Tiled, size, args.runs)).transpose()?;
        let layers = if args.explain { Some(explained(vae.as_mut(), size)?) } else { None };
        rows.push(Row { size, whole, tiled, layers });
    }
    if args.json {
        say!("{:#}", as_json(&source, &info, &checked, &rows));
    } else {
        print(&source, &info, &checked, &rows);
    }
    Ok(())
}

/// Larger pictures than this are no benchmark.
const MAX_SIZE: usize = 1 << 14;

/// Longer videos than this are no benchmark.
const MAX_FRAMES: usize = 1 << 10;

/// What is decoded.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// `None` for a picture.
    frames: Option<usize>,
    height: usize,
    width: usize,
}

impl Size {
    /// Frames, height and width of its latents.
    fn latents(self, info: &VaeInfo) -> [usize; 3] {
        let frames = (self.frames.unwrap_or(1) - 1) / info.temporal_factor.unwrap_or(1) + 1;
        [frames, self.height / info.spatial_factor, self.width / info.spatial_factor]
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, height, width } = self;
        frames.map_or(Ok(()), |frames| write!(f, "{frames} x "))?;
        write!(f, "{height} x {width}")
    }
}

/// What the arguments ask to measure, if the model makes such pictures or videos.
fn sizes(args: &BenchArgs, info: &VaeInfo) -> anyhow::Result<Vec<Size>> {
    let factor = info.spatial_factor;
    let (frames, usual) = match info.temporal_factor {
        None => {
            ensure!(args.frames.is_none(), "--frames is for models of videos, and this one makes pictures");
            (None, SIZES.as_slice())
        }
        Some(factor) => {
            let frames = args.frames.unwrap_or(VIDEO_FRAMES);
            ensure!(
                (1..=MAX_FRAMES).contains(&frames) && (frames - 1).is_multiple_of(factor),
                "--frames is {frames}, expected one more than a multiple of {factor}, up to {MAX_FRAMES}"
            );
            (Some(frames), VIDEO_SIZES.as_slice())
        }
    };
    let asked = if args.sizes.is_empty() { usual } else { args.sizes.as_slice() };
    for side in asked.iter().flatten() {
        ensure!(
            side.is_multiple_of(factor) && (1..=MAX_SIZE).contains(side),
            "--sizes has {side}, expected multiples of {factor}, the pixels of one latent, up to {MAX_SIZE}"
        );
    }
    Ok(asked.iter().map(|&[height, width]| Size { frames, height, width }).collect())
}

/// Latents as a sampler puts them out, nearly normally distributed and the same each time, scaled for the model.
fn latents(info: &VaeInfo, [frames, height, width]: [usize; 3]) -> Result<HostTensor, VaeError> {
    let mut shape = vec![1, info.latent_channels, height, width];
    if info.temporal_factor.is_some() {
        shape.insert(2, frames);
    }
    // A linear congruential generator with the constants of Numerical Recipes.
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    // Twelve uniform values have variance 1 in sum.
    let data = (0..shape.iter().product()).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    let mut latents = HostTensor::new(shape, data);
    Scaling::Model.apply(&mut latents, info)?;
    Ok(latents)
}

/// Decodes pictures or videos of this size: once to warm up, then `runs` times.
fn measure(vae: &mut dyn Vae, how: How, size: Size, runs: usize) -> anyhow::Result<Measured> {
    let latents = latents(vae.info(), size.latents(vae.info()))?;
    vae.release();
    machine::reset_peak_memory();
    let mut times = Vec::with_capacity(runs);
    for run in 0..=runs {
        let what = match how {
            How::Whole => "",
            How::Tiled => " in tiles",
        };
        let which = if run == 0 { "warming up".to_owned() } else { format!("run {run} of {runs}") };
        let mut progress = Progress::new(format!("{size}{what}, {which}"));
        let latents = latents.clone();
        let start = Instant::now();
        let options = DecodeOptions { tiling: how == How::Tiled, ..DecodeOptions::default() };
        vae.decode(latents, &options, &mut progress)?;
        if run > 0 {
            times.push(start.elapsed());
        }
        progress.end();
    }
    times.sort_unstable();
    Ok(Measured { times, peak_memory: machine::peak_memory() })
}

impl Measured {
    /// The median and the bounds, in seconds.
    fn seconds(&self) -> [f64; 3] {
        let times: Vec<f64> = self.times.iter().map(Duration::as_secs_f64).collect();
        let (last, half) = (times.len() - 1, times.len() / 2);
        let median = if times.len() % 2 == 1 { times[half] } else { (times[half - 1] + times[half]) / 2.0 };
        [median, times[0], times[last]]
    }

    fn json(&self) -> Value {
        let [median, least, most] = self.seconds();
        json!({
            "seconds": {"median": median, "min": least, "max": most, "runs": self.times.len()},
            "peak_memory_bytes": self.peak_memory,
        })
    }
}

/// Everything of one resolution.
struct Row {
    size: Size,
    whole: Measured,
    tiled: Option<Measured>,
    layers: Option<Vec<LayerRun>>,
}

/// The layers of one more decode.
fn explained(vae: &mut dyn Vae, size: Size) -> anyhow::Result<Vec<LayerRun>> {
    let latents = latents(vae.info(), size.latents(vae.info()))?;
    let mut progress = Progress::new(format!("{size}, layer by layer"));
    let mut explainer = Explainer { progress: &mut progress, layers: Vec::new() };
    vae.decode(latents, &DecodeOptions::default(), &mut explainer)?;
    let layers = explainer.layers;
    progress.end();
    Ok(layers)
}

fn as_json(source: &Source, info: &VaeInfo, checked: &Checked, rows: &[Row]) -> Value {
    let results = rows.iter().map(|row| {
        json!({
            "frames": row.size.frames,
            "height": row.size.height,
            "width": row.size.width,
            "whole": row.whole.json(),
            "tiled": row.tiled.as_ref().map(Measured::json),
            "layers": row.layers.as_deref().map(explain::json),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "model": source.to_string(),
        "class": info.class_name,
        "engine": info.engine,
        "processor": machine::processor(),
        "memory_bytes": machine::memory(),
        // No JSON number is infinite: where nothing differs there is no PSNR.
        "checked": {"max_error": checked.error, "psnr_db": checked.psnr.is_finite().then_some(checked.psnr)},
        "results": results.collect::<Vec<_>>(),
    })
}

fn print(source: &Source, info: &VaeInfo, checked: &Checked, rows: &[Row]) {
    let [_, height, width] = checked_latents(info).map(|side| side * info.spatial_factor);
    let memory = machine::memory().map(|bytes| format!(", {:.1} GB of memory", bytes as f64 / 1e9));
    let commit = COMMIT.map(|commit| format!(" ({commit})")).unwrap_or_default();
    say!("remote-vae {}{commit}, {} from {source}", env!("CARGO_PKG_VERSION"), info.class_name);
    say!("{}{}; {}", machine::processor(), memory.unwrap_or_default(), info.engine);
    say!(
        "checked: {height} x {width} pixels are those of strict arithmetic within {:.1e} (PSNR {:.1} dB)\n",
        checked.error,
        checked.psnr
    );
    say!(
        "{:>13}  {:>22}  {:>17}  {:>22}  {:>17}",
        "resolution",
        "time (min - max)",
        "peak memory",
        "tiled time",
        "tiled memory"
    );
    for Row { size, whole, tiled, .. } in rows {
        let [time, memory] = cells(Some(whole));
        let [tiled_time, tiled_memory] = cells(tiled.as_ref());
        let resolution = size.to_string();
        say!("{resolution:>13}  {time:>22}  {memory:>17}  {tiled_time:>22}  {tiled_memory:>17}");
    }
    for row in rows {
        if let Some(layers) = &row.layers {
            explain::print(&row.size.to_string(), layers);
        }
    }
}

/// Time and memory for people; a dash for what was not measured.
fn cells(measured: Option<&Measured>) -> [String; 2] {
    let Some(measured) = measured else { return ["-", "-"].map(str::to_owned) };
    let [median, least, most] = measured.seconds();
    let memory = measured.peak_memory.map_or_else(
        || "unknown".to_owned(),
        |peak| {
            let share = machine::memory().map(|all| format!(" ({:.1} %)", 100.0 * peak as f64 / all as f64));
            format!("{:.0} MB{}", peak as f64 / 1e6, share.unwrap_or_default())
        },
    );
    [format!("{median:.2} s ({least:.2} - {most:.2})"), memory]
}

/// Says on stderr what is done: on a terminal how far it is, elsewhere once.
struct Progress {
    label: String,
    terminal: bool,
    percent: Option<usize>,
}

impl Progress {
    fn new(label: String) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if !terminal {
            note!("{label}");
        }
        Self { label, terminal, percent: None }
    }

    /// Leaves nothing of it on a terminal.
    fn end(self) {
        if self.terminal {
            terminal::status(&format!("{:width$}\r", "", width = self.label.len() + 8));
        }
    }
}

impl Observer for Progress {
    fn progress(&mut self, done: usize, total: usize) -> Result<(), Cancelled> {
        let percent = (100.0 * done as f64 / total.max(1) as f64) as usize;
        if self.terminal && self.percent != Some(percent) {
            self.percent = Some(percent);
            terminal::status(&format!("{}: {percent:3} %", self.label));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let seconds = |times: &[u64]| {
            let times = times.iter().map(|&time| Duration::from_secs(time)).collect();
            Measured { times, peak_memory: None }.seconds()
        };
        assert_eq!(seconds(&[3]), [3.0, 3.0, 3.0]);
        assert_eq!(seconds(&[1, 4]), [2.5, 1.0, 4.0]);
        assert_eq!(seconds(&[1, 2, 9]), [2.0, 1.0, 9.0]);
    }
}
