//! Video as an mp4 file: H.264 by `rusty_h264-encoder`, which is plain Rust, in a container that is written here.
//!
//! The file starts with its index ("faststart"), so that a browser plays it while it arrives. Pictures are BT.709 in
//! limited range, 4:2:0, and say so both in the stream and in the container.

mod container;
mod sps;
mod yuv;

use rusty_h264_common::Profile;
use rusty_h264_encoder::{EncodeError, Encoder, EncoderConfig, Preset};

use crate::Channels;
use crate::error::{MediaError, check_size};
use crate::guard;
use crate::watch::IsWanted;
use container::Sample;
use yuv::Yuv;

/// Frames a second when nothing else is asked for, as diffusers' `export_to_video` had it for HunyuanVideo.
pub const DEFAULT_FPS: u16 = 15;

/// The quantizer when no quality is asked for: as near to the original as x264 is at CRF 25
/// (`tools/compare_mp4.py`).
const DEFAULT_QP: u8 = 26;

/// The quantizers of the best and the worst quality. Below the first the files grow and nobody sees why; above the second
/// there is none (H.264, 7.4.3).
const QP: [u8; 2] = [12, 51];

/// The longest and the shorter side of a video, in pixels: what level 5.2 has and players play.
pub const MP4_MAX_SIZE: [usize; 2] = [3840, 2160];

/// Levels and how many macroblocks a second they allow (H.264, table A-1). For the size of the pictures the encoder raises
/// the level itself.
const LEVELS: [(u8, u64); 8] = [
    (30, 40_500),
    (31, 108_000),
    (32, 216_000),
    (40, 245_760),
    (42, 522_240),
    (50, 589_824),
    (51, 983_040),
    (52, 2_073_600),
];

/// How a video is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mp4Options {
    /// Frames a second; 0 is taken as 1. `None` is [`DEFAULT_FPS`].
    pub fps: Option<u16>,
    /// From 1 to 100, values outside are brought to the nearest. `None` is a quantizer of 26, as for 65.
    pub quality: Option<u8>,
}

/// Encodes `frames`, each `[height, width, 3]` RGB in C order, as an mp4 file.
///
/// A side that is odd is made longer by repeating its last pixels: 4:2:0 has no such pictures.
///
/// # Errors
/// When there is no frame, a frame has not `height * width * 3` bytes, or the size is 0 or more than [`MP4_MAX_SIZE`];
/// [`MediaError::Cancelled`] before the next frame when the video is not wanted any longer.
pub fn encode_mp4<T: AsRef<[u8]>>(
    frames: &[T],
    width: usize,
    height: usize,
    options: &Mp4Options,
    is_wanted: &IsWanted<'_>,
) -> Result<Vec<u8>, MediaError> {
    let [longest, shortest] = MP4_MAX_SIZE;
    for frame in frames {
        let limit = if width.min(height) > shortest { shortest } else { longest };
        check_size("mp4", frame.as_ref(), Channels::Rgb, [width, height], limit)?;
    }
    if frames.is_empty() {
        return Err(failed("there is no frame"));
    }
    guard::encoder("mp4", || encode(frames, width, height, options, is_wanted))
}

/// [`encode_mp4`] of frames that fit the format.
fn encode<T: AsRef<[u8]>>(
    frames: &[T],
    width: usize,
    height: usize,
    options: &Mp4Options,
    is_wanted: &IsWanted<'_>,
) -> Result<Vec<u8>, MediaError> {
    let fps = options.fps.unwrap_or(DEFAULT_FPS).max(1);
    let mut yuv = Yuv::new(width, height);
    let mut encoder = Encoder::new(config(yuv.size(), fps, options.quality)).map_err(broken)?;
    let mut track = Track::default();
    for frame in frames {
        if !is_wanted() {
            if cfg!(debug_assertions) {
                // It panics there when it is dropped with frames that it holds back.
                let _ = encoder.try_flush();
            }
            return Err(MediaError::Cancelled);
        }
        yuv.fill(frame.as_ref());
        track.add(&encoder.encode_planes(&yuv.planes()).map_err(broken)?);
    }
    // It holds back frames to see what later ones make of them.
    track.add(&encoder.try_flush().map_err(broken)?);
    if track.samples.len() != frames.len() {
        return Err(failed("it gave another number of frames than it got"));
    }
    let sps = sps::with_colours(&track.sps, encoder.config().num_ref_frames)
        .ok_or_else(|| failed("its sequence parameter set is not as expected"))?;
    Ok(container::write(&track.samples, [&sps, &track.pps], yuv.size(), u32::from(fps)))
}

/// Constant quality: no bit rate to keep, and one quantizer around which the encoder spends more on what later frames refer
/// to, and on flat areas, where the eye sees more.
fn config([width, height]: [usize; 2], fps: u16, quality: Option<u8>) -> EncoderConfig {
    let mut config = EncoderConfig::new(width, height);
    config.profile = Profile::High;
    config.preset = Preset::Quality;
    config.bitrate = 0;
    config.qp = quality.map_or(DEFAULT_QP, qp);
    config.framerate = f32::from(fps);
    // Frames leave in the order in which they are seen, so that the container needs no second table of times.
    config.bframes = 0;
    // A place to jump to at each cut, and at the latest after as many frames as x264 lets pass.
    config.gop_size = 250;
    let macroblocks = (config.mb_width() * config.mb_height()) as u64 * u64::from(fps);
    config.level_idc = LEVELS.iter().find(|&&(_, most)| macroblocks <= most).map_or(52, |&(level, _)| level);
    config
}

/// What the encoder gave so far.
#[derive(Default)]
struct Track {
    samples: Vec<Sample>,
    /// The parameter sets of the sequence and of the pictures.
    sps: Vec<u8>,
    pps: Vec<u8>,
}

impl Track {
    /// Takes the units of any number of frames.
    fn add(&mut self, stream: &[u8]) {
        for unit in nal_units(stream) {
            let &[head, ref content @ ..] = unit else { continue };
            // H.264, table 7-1.
            match head & 31 {
                7 => self.sps = unit.to_vec(),
                8 => self.pps = unit.to_vec(),
                kind @ (1 | 5) => {
                    // `first_mb_in_slice` is 0, which is a single 1 bit: a new picture (H.264, 7.3.3 and 9.1).
                    if content.first().is_some_and(|byte| byte & 0x80 != 0) {
                        self.samples.push(Sample { data: Vec::new(), is_key: kind == 5 });
                    }
                    let Some(sample) = self.samples.last_mut() else { continue };
                    sample.data.extend_from_slice(&(unit.len() as u32).to_be_bytes());
                    sample.data.extend_from_slice(unit);
                }
                _ => {}
            }
        }
    }
}

fn failed(message: &str) -> MediaError {
    MediaError::Encoder { format: "mp4", message: message.to_owned() }
}

fn broken(error: EncodeError) -> MediaError {
    failed(&error.to_string())
}

/// From quality to quantizer.
fn qp(quality: u8) -> u8 {
    let [best, worst] = QP.map(u16::from);
    let steps = u16::from(quality.clamp(1, 100)) - 1;
    // Rounded to the nearest.
    (worst - (steps * (worst - best) * 2 + 99) / 198) as u8
}

/// The units of a byte stream, each of which follows a start code `0 0 1` (H.264, annex B).
fn nal_units(stream: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<_> =
        (0..stream.len().saturating_sub(2)).filter(|&i| stream[i..i + 3] == [0, 0, 1]).collect();
    let ends = starts.iter().skip(1).copied().chain([stream.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            let unit = &stream[start + 3..end];
            // The zeros before the next start code are its own.
            &unit[..unit.len() - unit.iter().rev().take_while(|&&byte| byte == 0).count()]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_runs_over_all_quantizers() {
        assert_eq!([1, 65, 100].map(qp), [51, 26, 12]);
        assert_eq!([0, 255].map(qp), [51, 12]);
        assert!((1..100).all(|quality| qp(quality) >= qp(quality + 1)));
    }

    #[test]
    fn a_stream_falls_into_its_units() {
        let stream = [0, 0, 0, 1, 7, 9, 0, 0, 1, 8, 0, 0, 0, 1, 5, 1, 2];
        assert_eq!(nal_units(&stream), [&[7, 9][..], &[8], &[5, 1, 2]]);
        assert!(nal_units(&[]).is_empty());
    }
}
