//! `remote-vae models --graph`: what a model computes.

use anyhow::{Context as _, bail};
use vae::graph::{Graph, Shape};

use crate::source::Source;

/// What of a graph is shown, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ShownArgs {
    /// Of the encoder, not of the decoder
    #[arg(long, requires = "graph")]
    encoder: bool,
    /// Width and height of the picture that the shapes are of, in pixels
    #[arg(long, requires = "graph", value_name = "WIDTHxHEIGHT", default_value = "512x512", value_parser = size)]
    size: [usize; 2],
    /// Frames of the video that the shapes are of
    #[arg(long, requires = "graph", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// As a picture, in the language of Graphviz
    #[arg(long, requires = "graph")]
    dot: bool,
}

fn size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').map(|(width, height)| (width.parse(), height.parse()));
    match sides {
        Some((Ok(width @ 1..), Ok(height @ 1..))) => Ok([width, height]),
        _ => Err("expected width and height in pixels, such as 1024x768".to_owned()),
    }
}

/// Prints a graph of a model.
pub(crate) fn show(source: Source, args: &ShownArgs) -> anyhow::Result<()> {
    let graphs = source.fetch()?.graphs()?;
    let (half, graph, still) = match args.encoder {
        false => ("decoder", &graphs.decoder, &graphs.still_decoder),
        true => {
            let graph = graphs.encoder.as_ref().context("the checkpoint holds a decoder only")?;
            ("encoder", graph, &graphs.still_encoder)
        }
    };
    let [width, height] = args.size;
    let [of_space, of_time] = graphs.factors;
    let input = match args.encoder {
        true => [args.frames as usize, height, width],
        false => [(args.frames as usize - 1) / of_time + 1, height / of_space, width / of_space],
    };
    // Some models of videos do less to a single frame.
    let graph = still.as_ref().filter(|_| input[0] == 1).unwrap_or(graph);
    if input.contains(&0) {
        bail!(
            "--size {width}x{height} is smaller than one latent, which stands for {of_space}x{of_space} pixels"
        );
    }
    let shape = Shape([1, graph.in_channels(), input[0], input[1], input[2]]);
    if args.dot {
        say!("{}", graph.dot(&format!("{} {half}", graphs.class_name), shape)?.trim_end());
        return Ok(());
    }
    let table = graph.table(shape)?;
    say!("{}, {half}, {width}x{height}{}\n", graphs.class_name, frames(args.frames));
    say!("{}", table.trim_end());
    say!("\n{}", everywhere(graph));
    Ok(())
}

fn frames(frames: u32) -> String {
    if frames == 1 { String::new() } else { format!(", {frames} frames") }
}

/// Whether parts of a picture can be made by themselves.
fn everywhere(graph: &Graph) -> String {
    match graph.looks_everywhere().as_slice() {
        [] => "No operation looks at the whole picture.".to_owned(),
        found => format!("These look at the whole picture: {}.", found.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("1024x768"), Ok([1024, 768]));
        for text in ["", "1024", "x", "0x8", "8x0", "8x8x8", "-8x8", "8,8"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
