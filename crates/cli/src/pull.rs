//! `remote-vae pull`.

use crate::source::ModelArgs;

/// Download models from the Hugging Face hub into its cache, to use them later without a network
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Only the autoencoder of a repository is downloaded. A download that was cut off goes on where it \
    ended.\n\nExamples:\n  \
    remote-vae pull sdxl\n  \
    remote-vae pull stabilityai/sd-vae-ft-mse black-forest-labs/FLUX.1-schnell:vae"
)]
pub(crate) struct PullArgs {
    /// Names that `remote-vae models` lists, or OWNER/NAME[:PATH][@REVISION]
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<ModelArgs>,
}

/// Downloads one after the other.
///
/// # Errors
/// The first one that could not be had.
pub(crate) fn run(args: &PullArgs) -> anyhow::Result<()> {
    for model in args.sources.iter().flat_map(|models| &models.0) {
        say!("{}", model.source.pull()?);
    }
    Ok(())
}
