//! `remote-vae decode`.

use std::time::{Duration, Instant};

use client::{DecodeOptions, Decoded, Image, Tensor, blocking::RemoteVae};
use wire::{DecodeRequest, Limits};

use crate::args::DecodeArgs;
use crate::engine::EngineArgs;
use crate::source::Source;
use crate::{latents, output};

pub(crate) fn run(args: DecodeArgs) -> anyhow::Result<()> {
    let (output_type, image_format) = output::plan(&args.out, &args.options)?;
    let options = args.options.options(output_type, image_format);
    // What cannot be asked for is known before a file is read or a model is loaded.
    options.params()?;
    let latents = latents::read(&args.latents)?;

    let (decoded, by, time) = match (args.source()?, &args.endpoint) {
        (None, Some(endpoint)) => {
            let vae = RemoteVae::new(endpoint)?;
            let start = Instant::now();
            let decoded = vae.decode(&latents, &options)?;
            (decoded, vae.endpoint().to_owned(), start.elapsed())
        }
        (source, _) => {
            let source = source.unwrap_or_else(Source::demo);
            let by = source.to_string();
            let (decoded, time) = decode_here(source, args.engine, latents, &options)?;
            (decoded, by, time)
        }
    };
    output::write(&args.out, &decoded)?;
    let (out, what, seconds) = (args.out.display(), output::describe(&decoded), time.as_secs_f64());
    say!("{out}: {what}, decoded by {by} in {seconds:.2} s");
    Ok(())
}

/// Decodes with a model on this machine, to the very bytes that a server would answer with. The time is that of the
/// decode alone.
fn decode_here(
    source: Source,
    engine: EngineArgs,
    latents: Tensor,
    options: &DecodeOptions,
) -> anyhow::Result<(Decoded, Duration)> {
    let mut vae = source.load(engine.engine()?)?;
    let request = DecodeRequest { latents, params: options.params()? };
    // Whoever decodes on their own machine sets their own limits.
    let limits = Limits {
        max_body_bytes: usize::MAX,
        max_batch: usize::MAX,
        max_pixels: usize::MAX,
        max_total_pixels: usize::MAX,
    };
    let start = Instant::now();
    let decoded = match server::decode(vae.as_mut(), request, &limits)? {
        server::Decoded::Tensor(tensor) => Decoded::Tensor(tensor),
        server::Decoded::Video(file) => Decoded::Video(file),
        server::Decoded::Image(file) => Decoded::Image(Image::from_bytes(file)?),
    };
    Ok((decoded, start.elapsed()))
}
