//! The flags of commands that work through many files.

use super::heading;
use super::number::whole;
use crate::preview::Terminal;
use crate::terminal::plain;

/// How many files are worked through.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = heading::MANY)]
pub(crate) struct BatchArgs {
    /// Files at a time: 2 keep a server busy while answers travel, more help with several servers
    #[arg(long, value_name = "N", default_value = "4", value_parser = whole::<usize>(1..=256))]
    pub(crate) jobs: usize,
    /// Leave alone what an earlier run has written; files are written whole or not at all
    #[arg(long)]
    pub(crate) resume: bool,
    /// Show each picture in the terminal: as such where it speaks kitty's or iTerm2's protocol, else in coloured blocks
    #[arg(long)]
    pub(crate) preview: bool,
    /// Print one JSON object a line on stdout: each file as it is done, and a summary
    #[arg(long)]
    pub(crate) json: bool,
}

impl BatchArgs {
    /// The terminal that shall show pictures, if one shall and can; says why it cannot.
    pub(crate) fn terminal(&self) -> Option<Terminal> {
        if !self.preview {
            return None;
        }
        Terminal::find().map_err(|why| note!("no preview: {}", plain(&why))).ok()
    }
}
