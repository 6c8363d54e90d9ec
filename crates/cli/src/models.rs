//! `remote-vae models`.

use clap::builder::styling::Style;
use serde::Serialize;

use crate::source::{ModelArgs, Preset};
use crate::{demo, graphs, source};

/// List the models that have a name, and what else can be served; or show what one of them computes
#[derive(Debug, clap::Args)]
#[command(after_help = "Wherever a SOURCE is taken, these names stand for the checkpoint: \
    `remote-vae serve --model sdxl`. It is downloaded when it is first used.\n\nExamples:\n  \
    remote-vae models --graph demo\n  \
    remote-vae models --graph sdxl --size 1024x1024 --encoder\n  \
    remote-vae models --graph ./vae --dot | dot -Tsvg > vae.svg")]
pub(crate) struct ModelsArgs {
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "graph")]
    json: bool,
    /// Show what this model computes: each operation with its weights, the shape of its value and its work
    #[arg(long, value_name = "SOURCE")]
    graph: Option<ModelArgs>,
    #[command(flatten)]
    shown: graphs::ShownArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct List<'a> {
    families: &'a [&'a str],
    models: &'a [Row],
}

/// One line of the list.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    class_name: String,
    latent_channels: usize,
    /// Null for a model that normalises latents by other numbers, or by none.
    scaling_factor: Option<f32>,
    shift_factor: Option<f32>,
    source: String,
    license: &'static str,
    /// Whether it can be used without a download.
    here: bool,
}

impl Row {
    fn of(preset: &Preset) -> Self {
        let place = preset.place();
        Self {
            name: preset.name,
            class_name: preset.class_name.to_owned(),
            latent_channels: preset.latent_channels,
            scaling_factor: preset.factors.map(|(scaling_factor, _)| scaling_factor),
            shift_factor: preset.factors.and_then(|(_, shift_factor)| shift_factor),
            source: place.to_string(),
            license: preset.license,
            here: source::is_cached(&place),
        }
    }

    fn demo() -> anyhow::Result<Self> {
        let demo::Facts { class_name, latent_channels, scaling_factor, shift_factor } = demo::facts()?;
        let source = "embedded in this program".to_owned();
        let license = demo::LICENSE;
        Ok(Self {
            name: "demo",
            class_name,
            latent_channels,
            scaling_factor: Some(scaling_factor),
            shift_factor,
            source,
            license,
            here: true,
        })
    }

    fn cells(&self) -> [String; 7] {
        let Self { name, class_name, latent_channels, scaling_factor, shift_factor, license, here, .. } =
            self;
        let factors = match (scaling_factor, shift_factor) {
            (Some(factor), Some(shift)) => format!("{factor}, shift {shift}"),
            (Some(factor), None) => factor.to_string(),
            (None, _) => "-".to_owned(),
        };
        [
            (*name).to_owned(),
            class_name.clone(),
            latent_channels.to_string(),
            factors,
            self.source.clone(),
            (*license).to_owned(),
            if *here { "yes" } else { "no" }.to_owned(),
        ]
    }
}

const HEAD: [&str; 7] = ["NAME", "FAMILY", "LATENTS", "SCALING FACTOR", "SOURCE", "LICENSE", "HERE"];

pub(crate) fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    if let Some(ModelArgs(models)) = &args.graph {
        for model in models {
            graphs::show(model.source.clone(), &args.shown)?;
        }
        return Ok(());
    }
    let rows: Vec<Row> = Preset::all().map(Row::of).chain([Row::demo()?]).collect();
    if args.json {
        say!("{}", serde_json::to_string_pretty(&List { families: vae::CLASS_NAMES, models: &rows })?);
        return Ok(());
    }
    let bold = Style::new().bold();
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let width = |column: usize| {
        cells.iter().map(|row| row[column].len()).chain([HEAD[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say!("{bold}{}{bold:#}", line(&HEAD.map(str::to_owned)));
    for row in &cells {
        say!("{}", line(row));
    }
    say!(
        "\nAlso: any model of these families, from the Hugging Face hub (OWNER/NAME[:PATH][@REVISION]) or from this"
    );
    say!("machine (a folder as diffusers saves it, or a file of weights): {}", vae::CLASS_NAMES.join(", "));
    Ok(())
}
