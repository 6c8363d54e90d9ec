//! Which frames a causal convolution over time multiplies with which filters.
//!
//! An output frame sees three frames, `t - 2`, `t - 1` and `t`, with one filter for each. Where two of them are the same
//! frame, at the beginning, which repeats the first frame, and behind an upsampling, which shows frames twice, their
//! filters are summed up and one product is saved: a clip of three frames takes 6 products instead of 9, and an
//! upsampling convolution two a frame instead of three. A convolution with stride 2 makes every second of these frames.

/// Some of the three filters of time, to be summed up: bit `t` for the filter that sees frame `t - 2 + bit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeTaps(u8);

impl TimeTaps {
    /// `Σ value(t)` over these taps.
    #[inline(always)]
    pub(crate) fn sum(self, value: impl Fn(usize) -> f32) -> f32 {
        (0..3).filter(|t| self.0 & (1 << t) != 0).map(value).sum()
    }

    /// Which taps these are.
    pub(crate) fn indices(self) -> impl Iterator<Item = usize> {
        (0..3).filter(move |t| self.0 & (1 << t) != 0)
    }
}

/// Frames that an output frame sees at most.
pub(crate) const MOST: usize = 3;

/// What makes one output frame: `Σ filters[first + i] · input[frames[i]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputFrame {
    frames: [usize; MOST],
    count: usize,
    /// The first of its filters in [`Schedule::filters`]; the others follow it.
    pub(crate) first: usize,
}

impl OutputFrame {
    /// The input frames it sees, in the order of its filters.
    pub(crate) fn frames(&self) -> &[usize] {
        &self.frames[..self.count]
    }
}

/// All output frames in order. Going through them, an input frame is last needed [`MOST`] frames before the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// The filters that are needed.
    pub(crate) filters: Vec<TimeTaps>,
    pub(crate) outputs: Vec<OutputFrame>,
}

impl Schedule {
    /// For `frames` input frames, each but the first shown twice if `upsampled`.
    pub(crate) fn new(frames: usize, upsampled: bool) -> Self {
        let (latest, before, all) = (TimeTaps(0b100), TimeTaps(0b011), TimeTaps(0b111));
        let shown = if upsampled { 2 * frames - 1 } else { frames };
        let filters = match (frames, upsampled) {
            (1, _) => vec![all],
            (2, false) => vec![all, latest, before],
            (_, false) => vec![all, TimeTaps(0b001), TimeTaps(0b010), latest, before],
            (_, true) => vec![all, latest, before, TimeTaps(0b110), TimeTaps(0b001)],
        };
        let frame = |frames: &[usize], first| {
            let mut all = [0; MOST];
            all[..frames.len()].copy_from_slice(frames);
            OutputFrame { frames: all, count: frames.len(), first }
        };
        let outputs = (0..shown)
            .map(|t| match (t, upsampled) {
                (0, _) => frame(&[0], 0),
                (1, false) => frame(&[1, 0], filters.len() - 2),
                (t, false) => frame(&[t - 2, t - 1, t], 1),
                // Frame k is shown as 2k - 1 and 2k, after k - 1 as 2k - 3 and 2k - 2.
                (t, true) if t % 2 == 1 => frame(&[t.div_ceil(2), t.div_ceil(2) - 1], 1),
                (t, true) => frame(&[t / 2, t / 2 - 1], 3),
            })
            .collect();
        Self { filters, outputs }
    }

    /// For `frames` input frames and stride 2: the output frames 0, 2, 4, … of the convolution without a stride.
    pub(crate) fn strided(frames: usize) -> Self {
        let Self { filters, outputs } = Self::new(frames, false);
        Self { filters, outputs: outputs.into_iter().step_by(2).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every output is the sum that the definition says, tap by tap.
    #[test]
    fn schedules_are_causal_convolutions() {
        let weight = [0.25f32, 7.0, 64.0];
        for frames in 1..9 {
            let x: Vec<f32> = (0..frames).map(|f| (f * f + 3) as f32).collect();
            for upsampled in [false, true] {
                let shown: Vec<f32> = if upsampled {
                    (0..2 * frames - 1).map(|t: usize| x[t.div_ceil(2)]).collect()
                } else {
                    x.clone()
                };
                let schedule = Schedule::new(frames, upsampled);
                assert_eq!(schedule.outputs.len(), shown.len());
                // A strided one makes every second.
                let strided = Schedule::strided(frames);
                assert_eq!(strided.outputs.len(), (frames - 1) / 2 + 1);
                if !upsampled {
                    let every_second: Vec<_> = schedule.outputs.iter().step_by(2).copied().collect();
                    assert_eq!(strided.outputs, every_second);
                    assert_eq!(strided.filters, schedule.filters);
                }
                for (t, output) in schedule.outputs.iter().enumerate() {
                    let want: f32 = (0..3).map(|k| weight[k] * shown[(t + k).saturating_sub(2)]).sum();
                    let got: f32 = output
                        .frames()
                        .iter()
                        .zip(&schedule.filters[output.first..])
                        .map(|(&frame, taps)| taps.sum(|k| weight[k]) * x[frame])
                        .sum();
                    assert_eq!(got, want, "output {t} of {frames} frames");
                    let newest = output.frames().iter().max().unwrap();
                    assert!(output.frames().iter().all(|f| f + MOST > *newest));
                }
            }
        }
    }

    #[test]
    fn repeated_frames_save_products() {
        let products = |frames, upsampled| {
            Schedule::new(frames, upsampled).outputs.iter().map(|o| o.frames().len()).sum::<usize>()
        };
        assert_eq!([products(3, false), products(5, false)], [6, 12]);
        assert_eq!([products(3, true), products(5, true)], [9, 17]);
    }
}
