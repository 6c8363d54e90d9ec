//! `remote-vae bench --explain`: what each layer does, why so, and how fast.

use serde_json::{Value, json};
use vae::{Cancelled, LayerRun, Observer};

/// Gathers the layers of a decode, and passes its progress on.
pub(crate) struct Explainer<'a> {
    pub(crate) progress: &'a mut dyn Observer,
    pub(crate) layers: Vec<LayerRun>,
}

impl Observer for Explainer<'_> {
    fn progress(&mut self, done: usize, total: usize) -> Result<(), Cancelled> {
        self.progress.progress(done, total)
    }

    fn wants_layers(&self) -> bool {
        true
    }

    fn layer(&mut self, layer: LayerRun) {
        self.layers.push(layer);
    }
}

/// Billions of operations that a layer's definition has: a multiplication and an addition are two.
fn gigaflop(layer: &LayerRun) -> f64 {
    2e-9 * layer.multiply_adds as f64
}

/// The table, for people.
pub(crate) fn print(size: &str, layers: &[LayerRun]) {
    say!(
        "\n{size}, layer by layer; GFLOP are those of the layer's definition, whatever the algorithm saves\n"
    );
    let head =
        ["layer", "channels", "output", "algorithm", "GFLOP", "ms", "GFLOP/s", "why"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(layers.iter().map(row));
    let (work, seconds) = layers.iter().fold((0.0, 0.0), |(work, seconds), layer| {
        (work + gigaflop(layer), seconds + layer.time.as_secs_f64())
    });
    let mut total = ["all", "", "", "", "", "", "", ""].map(str::to_owned);
    total[4..7].clone_from_slice(&figures(work, seconds));
    rows.push(total);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in &rows {
        let [layer, channels, output, algorithm, work, time, speed, why] = row;
        let [w0, w1, w2, w3, w4, w5, w6, _] = widths;
        say!(
            "{layer:w0$}  {channels:>w1$}  {output:>w2$}  {algorithm:w3$}  {work:>w4$}  {time:>w5$}  {speed:>w6$}  {why}"
        );
    }
}

fn row(layer: &LayerRun) -> [String; 8] {
    let channels = |shape: &[usize]| shape.get(1).map_or_else(|| "?".to_owned(), usize::to_string);
    let sides: Vec<_> = layer.output.iter().skip(2).map(usize::to_string).collect();
    let [work, time, speed] = figures(gigaflop(layer), layer.time.as_secs_f64());
    [
        layer.name.strip_prefix("decoder.").unwrap_or(&layer.name).to_owned(),
        format!("{} > {}", channels(&layer.input), channels(&layer.output)),
        sides.join(" x "),
        layer.choice.algorithm.to_owned(),
        work,
        time,
        speed,
        layer.choice.reason.to_owned(),
    ]
}

fn figures(gigaflop: f64, seconds: f64) -> [String; 3] {
    let speed = if seconds > 0.0 { format!("{:.0}", gigaflop / seconds) } else { "-".to_owned() };
    [format!("{gigaflop:.1}"), format!("{:.1}", 1e3 * seconds), speed]
}

/// The same, for programs.
pub(crate) fn json(layers: &[LayerRun]) -> Value {
    let layers = layers.iter().map(|layer| {
        json!({
            "name": layer.name,
            "input": layer.input,
            "output": layer.output,
            "algorithm": layer.choice.algorithm,
            "reason": layer.choice.reason,
            "gigaflop": gigaflop(layer),
            "seconds": layer.time.as_secs_f64(),
        })
    });
    Value::Array(layers.collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vae::device::cpu::Cpu;
    use vae::{Choice, DecodeOptions, HostTensor, Silent};

    use super::*;
    use crate::source::Source;

    #[test]
    fn a_row_says_it_in_words() {
        let layer = LayerRun {
            name: "decoder.conv_in".to_owned(),
            input: vec![1, 4, 64, 32],
            output: vec![1, 512, 64, 32],
            multiply_adds: 500_000_000,
            choice: Choice { algorithm: "direct", reason: "because" },
            time: Duration::from_millis(10),
        };
        let expected = ["conv_in", "4 > 512", "64 x 32", "direct", "1.0", "10.0", "100", "because"];
        assert_eq!(row(&layer), expected);
        assert_eq!(figures(1.0, 0.0)[2], "-");
    }

    #[test]
    fn every_layer_of_a_decode_is_explained() {
        let mut vae = Source::demo().load(Cpu::new(Default::default()).unwrap(), None).unwrap();
        let channels = vae.info().latent_channels;
        let latents = HostTensor::new(vec![2, channels, 3, 5], vec![0.5; 2 * channels * 15]);
        let mut silent = Silent;
        let mut explainer = Explainer { progress: &mut silent, layers: Vec::new() };
        vae.decode(latents, &DecodeOptions::default(), &mut explainer).unwrap();
        let layers = explainer.layers;
        assert_eq!((layers[0].input[0], layers[0].output[2..].to_vec()), (2, vec![3, 5]));
        assert_eq!(layers.last().unwrap().output, [2, 3, 24, 40]);
        for layer in &layers {
            assert!(layer.multiply_adds > 0 && !layer.choice.reason.is_empty(), "{layer:?}");
        }
        let names: std::collections::HashSet<_> = layers.iter().map(|layer| &layer.name).collect();
        assert_eq!(names.len(), layers.len());
    }
}
