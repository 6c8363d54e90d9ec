//! A picture in the terminal, as well as the terminal can: as a picture where it speaks kitty's or iTerm2's protocol,
//! else as half blocks in colour.

use std::fmt::Write as _;
use std::io::IsTerminal;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use client::{Image, ImageFormat};
use media::{Channels, ImageFile};

/// Columns of a preview: a quarter of a wide terminal.
const COLUMNS: usize = 48;

/// Bytes of a chunk in kitty's protocol
/// (<https://sw.kovidgoyal.net/kitty/graphics-protocol/#remote-client>).
const KITTY_CHUNK: usize = 4096;

/// What lies behind what is transparent, in squares of two shades, and cells along a side of a square.
const BOARD: [u8; 2] = [102, 153];
const BOARD_SIDE: usize = 2;

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    Kitty,
    Iterm,
    /// Any colour.
    TrueColor,
    /// The 256 colours of xterm.
    Colors256,
}

impl Terminal {
    /// The terminal on stderr.
    ///
    /// # Errors
    /// There is none, or it shows no colours; why, for people.
    pub(crate) fn find() -> Result<Self, String> {
        if !std::io::stderr().is_terminal() {
            return Err("pictures are shown on a terminal, and stderr is none".to_owned());
        }
        Self::by_name(|name| std::env::var(name).unwrap_or_default())
    }

    /// By the variables with which terminals tell what they are.
    fn by_name(variable: impl Fn(&str) -> String) -> Result<Self, String> {
        let (term, program) = (variable("TERM"), variable("TERM_PROGRAM"));
        if !variable("NO_COLOR").is_empty() {
            return Err("NO_COLOR is set".to_owned());
        }
        let no_colors = Err(format!(
            "this terminal does not say that it shows colours (TERM={term}); if it does, set TERM=xterm-256color or \
             COLORTERM=truecolor"
        ));
        if term == "dumb" {
            return no_colors;
        }
        // tmux and screen pass neither protocol on.
        let direct = variable("TMUX").is_empty() && !term.starts_with("screen");
        if direct
            && (!variable("KITTY_WINDOW_ID").is_empty() || term.contains("kitty") || program == "ghostty")
        {
            return Ok(Self::Kitty);
        }
        if direct && ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str()) {
            return Ok(Self::Iterm);
        }
        if ["truecolor", "24bit"].contains(&variable("COLORTERM").as_str()) {
            return Ok(Self::TrueColor);
        }
        if term.contains("256color") || !program.is_empty() { Ok(Self::Colors256) } else { no_colors }
    }

    /// The picture, ready to be printed, without a line feed at its end. `None` when the file cannot be read.
    pub(crate) fn show(self, image: &Image) -> Option<String> {
        match (self, image.format) {
            (Self::Kitty, ImageFormat::Png) => Some(kitty(&image.bytes)),
            (Self::Iterm, _) => {
                let (size, file) = (image.bytes.len(), BASE64_STANDARD.encode(&image.bytes));
                Some(format!("\x1b]1337;File=inline=1;width={COLUMNS};size={size}:{file}\x07"))
            }
            // Kitty takes no JPEG files, but any colour.
            (Self::Kitty | Self::TrueColor, _) => Some(blocks(&pixels(image)?, true)),
            (Self::Colors256, _) => Some(blocks(&pixels(image)?, false)),
        }
    }
}

/// A PNG file in kitty's protocol: transmitted in pieces, shown over so many columns.
fn kitty(png: &[u8]) -> String {
    let file = BASE64_STANDARD.encode(png);
    let pieces: Vec<_> = file.as_bytes().chunks(KITTY_CHUNK).collect();
    let mut text = String::new();
    for (index, piece) in pieces.iter().enumerate() {
        let first = if index == 0 { format!("a=T,f=100,c={COLUMNS},") } else { String::new() };
        let more = u8::from(index + 1 < pieces.len());
        let _ = write!(text, "\x1b_G{first}m={more};{}\x1b\\", String::from_utf8_lossy(piece));
    }
    text
}

/// Reads a picture file, as RGBA.
fn pixels(image: &Image) -> Option<media::Image> {
    ImageFile::open(&image.bytes).and_then(|file| file.decode(Channels::Rgba)).ok()
}

/// Two pixels in each character, one above the other: the foreground and the background of an upper half block.
fn blocks(pixels: &media::Image, true_color: bool) -> String {
    let columns = COLUMNS.min(pixels.width);
    let rows = (pixels.height * columns / pixels.width).div_ceil(2).max(1);
    let color = |column: usize, line: usize| {
        let [r, g, b] = average(pixels, (column, columns), (line, rows * 2));
        if true_color { format!("2;{r};{g};{b}") } else { format!("5;{}", in_256([r, g, b])) }
    };
    let mut text = String::new();
    for row in 0..rows {
        if row > 0 {
            text.push('\n');
        }
        for column in 0..columns {
            let (upper, lower) = (color(column, 2 * row), color(column, 2 * row + 1));
            let _ = write!(text, "\x1b[38;{upper}m\x1b[48;{lower}m▀");
        }
        text.push_str("\x1b[0m");
    }
    text
}

/// The mean colour of one cell, of an RGBA picture that is cut into so many columns and lines and lies on a checkerboard.
fn average(
    pixels: &media::Image,
    (column, columns): (usize, usize),
    (line, lines): (usize, usize),
) -> [u8; 3] {
    let part = |index: usize, count: usize, length: usize| {
        let begin = (index * length / count).min(length - 1);
        begin..((index + 1) * length / count).clamp(begin + 1, length)
    };
    let board = usize::from(BOARD[(column / BOARD_SIDE + line / BOARD_SIDE) % 2]);
    let mut sum = [0usize; 3];
    let mut count = 0;
    let stored = pixels.pixels.as_chunks::<4>().0;
    for y in part(line, lines, pixels.height) {
        for x in part(column, columns, pixels.width) {
            let [colours @ .., alpha] = stored[y * pixels.width + x].map(usize::from);
            for (sum, colour) in sum.iter_mut().zip(colours) {
                *sum += colour * alpha + board * (255 - alpha);
            }
            count += 255;
        }
    }
    sum.map(|sum| (sum / count) as u8)
}

/// The nearest of xterm's 6 x 6 x 6 colours, whose levels are 0, 95, 135, 175, 215 and 255.
fn in_256(rgb: [u8; 3]) -> u8 {
    let [r, g, b] = rgb.map(|value| match value {
        0..48 => 0,
        48..115 => 1,
        _ => (value - 35) / 40,
    });
    16 + 36 * r + 6 * g + b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 x 4 pixels: two lines of red, two of blue.
    fn picture(png: bool) -> Image {
        let rgb = [[255, 0, 0]; 4].into_iter().chain([[0, 0, 255]; 4]).flatten().collect::<Vec<_>>();
        let file = if png { media::encode_png(&rgb, 2, 4) } else { media::encode_jpeg(&rgb, 2, 4, 95) };
        Image::from_bytes(file.unwrap().into()).unwrap()
    }

    #[test]
    fn terminals_tell_what_they_are() {
        for (variables, expected) in [
            (&[("TERM", "xterm-kitty")][..], Ok(Terminal::Kitty)),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")], Ok(Terminal::Iterm)),
            (&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], Ok(Terminal::TrueColor)),
            (&[("TERM", "screen-256color"), ("KITTY_WINDOW_ID", "1")], Ok(Terminal::Colors256)),
            (&[("TERM", "xterm-kitty"), ("NO_COLOR", "1")], Err("NO_COLOR is set")),
            (&[("TERM", "dumb"), ("COLORTERM", "truecolor")], Err("TERM=dumb")),
            (&[("TERM", "vt100")], Err("TERM=vt100")),
            (&[("TERM", "xterm")], Err("set TERM=xterm-256color or COLORTERM=truecolor")),
        ] {
            let variable = |name: &str| {
                variables
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map_or(String::new(), |(_, value)| (*value).to_owned())
            };
            let found = Terminal::by_name(variable);
            match expected {
                Ok(terminal) => assert_eq!(found, Ok(terminal), "{variables:?}"),
                Err(words) => assert!(found.as_ref().is_err_and(|why| why.contains(words)), "{found:?}"),
            }
        }
    }

    #[test]
    fn half_blocks_are_the_picture() {
        let red_and_blue = Terminal::TrueColor.show(&picture(true)).unwrap();
        let red = "\x1b[38;2;255;0;0m\x1b[48;2;255;0;0m▀";
        let blue = "\x1b[38;2;0;0;255m\x1b[48;2;0;0;255m▀";
        assert_eq!(red_and_blue, format!("{red}{red}\x1b[0m\n{blue}{blue}\x1b[0m"));
        let few_colors = Terminal::Colors256.show(&picture(true)).unwrap();
        assert!(few_colors.starts_with("\x1b[38;5;196m\x1b[48;5;196m▀"), "{few_colors:?}");
        assert_eq!(Terminal::TrueColor.show(&picture(false)).unwrap().matches('▀').count(), 4);
    }

    #[test]
    fn what_is_transparent_shows_a_checkerboard() {
        // 4 x 4 pixels: the upper half is transparent, the lower half red, of which the last line is seen by three fifths.
        let line = |alpha: u8| [255, 0, 0, alpha].repeat(4);
        let rgba = [line(0), line(0), line(255), line(153)].concat();
        let image = Image::from_bytes(media::encode_png(&rgba, 4, 4).unwrap().into()).unwrap();
        let shown = Terminal::TrueColor.show(&image).unwrap();
        let (dark, light) = ("2;102;102;102", "2;153;153;153");
        let board = |shade: &str| format!("\x1b[38;{shade}m\x1b[48;{shade}m▀").repeat(2);
        let half = |below: &str| format!("\x1b[38;2;255;0;0m\x1b[48;{below}m▀").repeat(2);
        let (above, below) = (board(dark) + &board(light), half("2;214;61;61") + &half("2;193;40;40"));
        assert_eq!(shown, format!("{above}\x1b[0m\n{below}\x1b[0m"));
    }

    #[test]
    fn files_travel_whole() {
        let image = picture(true);
        let shown = Terminal::Iterm.show(&image).unwrap();
        let file = shown.trim_end_matches('\x07').rsplit(':').next().unwrap();
        assert_eq!(BASE64_STANDARD.decode(file).unwrap(), image.bytes);

        let shown = kitty(&[7; 5000]);
        let pieces: Vec<_> = shown.split("\x1b\\").filter(|piece| !piece.is_empty()).collect();
        assert!(pieces[0].starts_with("\x1b_Ga=T,f=100,c=48,m=1;") && pieces[1].starts_with("\x1b_Gm=0;"));
        let file: String = pieces.iter().map(|piece| piece.split(';').nth(1).unwrap()).collect();
        assert_eq!(BASE64_STANDARD.decode(file).unwrap(), [7; 5000]);
        assert!(Terminal::Kitty.show(&picture(false)).unwrap().contains('▀'), "kitty takes no JPEG files");
    }
}
