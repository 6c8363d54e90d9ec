//! Video as an mp4 file: H.264 (Cisco's OpenH264, built from source) in a container that is written here.
//!
//! The file starts with its index ("faststart"), so that a browser plays it while it arrives. Pictures are BT.709 in
//! limited range, 4:2:0, and say so both in the stream and in the container.

mod container;
mod yuv;

use openh264::OpenH264API;
use openh264::encoder::{
    Complexity, Encoder, EncoderConfig, FrameRate, IntraFramePeriod, Profile, QpRange, RateControlMode,
    VuiConfig,
};

use crate::error::{MediaError, check_size};
use container::Sample;
use yuv::Yuv;

/// Frames a second when nothing else is asked for, as diffusers' `export_to_video` had it for HunyuanVideo.
pub const DEFAULT_FPS: u16 = 15;

/// The quantizer when no quality is asked for. Meant to be near x264's CRF 25, which
/// `tools/compare_mp4.py` is there to find out.
const DEFAULT_QP: u8 = 26;

/// The quantizers of the best and the worst quality: below the first OpenH264 does not go (`GOM_MIN_QP_MODE`), above the
/// second nobody can (H.264, 7.4.3).
const QP: [u8; 2] = [12, 51];

/// The longest and the shorter side that OpenH264 encodes, in pixels (level 5.2).
pub const MP4_MAX_SIZE: [usize; 2] = [3840, 2160];

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
/// A side that is odd, or shorter than 16 pixels, is made longer by repeating its last pixels: the format has no such
/// pictures.
///
/// # Errors
/// When there is no frame, a frame has not `height * width * 3` bytes, or the size is 0 or more than [`MP4_MAX_SIZE`].
pub fn encode_mp4<T: AsRef<[u8]>>(
    frames: &[T],
    width: usize,
    height: usize,
    options: &Mp4Options,
) -> Result<Vec<u8>, MediaError> {
    let failed = |message: String| MediaError::Encoder { format: "mp4", message };
    let [longest, shortest] = MP4_MAX_SIZE;
    for frame in frames {
        let limit = if width.min(height) > shortest { shortest } else { longest };
        check_size("mp4", frame.as_ref(), width, height, limit)?;
    }
    let fps = options.fps.unwrap_or(DEFAULT_FPS).max(1);
    let qp = options.quality.map_or(DEFAULT_QP, qp);
    let config = EncoderConfig::new()
        .profile(Profile::High)
        .complexity(Complexity::High)
        .vui(VuiConfig::bt709())
        .max_frame_rate(FrameRate::from_hz(f32::from(fps)))
        // Constant quality: one quantizer for all frames, and no frame left out to save bits. In this mode the encoder
        // has no bit rate to keep, and does not warn that it cannot.
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(qp, qp))
        .skip_frames(false)
        .adaptive_quantization(false)
        .background_detection(false)
        .scene_change_detect(true)
        // A place to jump to every few seconds.
        .intra_frame_period(IntraFramePeriod::from_num_frames(u32::from(fps) * 4))
        .num_threads(1);
    let broken = |error: openh264::Error| failed(error.to_string());
    let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config).map_err(broken)?;
    let mut yuv = Yuv::new(width, height);
    let mut samples = Vec::with_capacity(frames.len());
    let (mut sps, mut pps) = (Vec::new(), Vec::new());
    for frame in frames {
        yuv.fill(frame.as_ref());
        let stream = encoder.encode(&yuv).map_err(broken)?.to_vec();
        let mut sample = Sample { data: Vec::with_capacity(stream.len()), is_key: false };
        for unit in nal_units(&stream) {
            // H.264, table 7-1.
            match unit.first().map(|byte| byte & 31) {
                Some(7) => sps = unit.to_vec(),
                Some(8) => pps = unit.to_vec(),
                Some(kind) => {
                    sample.is_key |= kind == 5;
                    sample.data.extend_from_slice(&(unit.len() as u32).to_be_bytes());
                    sample.data.extend_from_slice(unit);
                }
                None => {}
            }
        }
        samples.push(sample);
    }
    if samples.is_empty() || samples.iter().any(|sample| sample.data.is_empty()) || sps.len() < 4 {
        return Err(failed("it gave no picture for a frame, or there was none".to_owned()));
    }
    Ok(container::write(&samples, [&sps, &pps], yuv.size(), u32::from(fps)))
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
