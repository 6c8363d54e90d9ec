//! Which frames a convolution over time multiplies with which filters.
//!
//! An output frame sees three frames, with one filter for each. Where two of them are the same frame, as a padding that
//! repeats or mirrors makes them, and behind an upsampling, which shows frames twice, their filters are summed up and one
//! product is saved: a causal convolution of a clip of three frames that repeats the first takes 6 products instead of 9, and
//! an upsampling one two a frame instead of three. Where a frame is zeros, the product is left out.

use crate::source::PaddingMode;

/// Some of the filters of time, to be summed up: bit `t` for the one that sees the `t`-th frame of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeTaps(u8);

impl TimeTaps {
    /// `Σ value(t)` over these taps.
    #[inline(always)]
    pub(crate) fn sum(self, value: impl Fn(usize) -> f32) -> f32 {
        (0..MOST).filter(|t| self.0 & (1 << t) != 0).map(value).sum()
    }

    /// Which taps these are.
    pub(crate) fn indices(self) -> impl Iterator<Item = usize> {
        (0..MOST).filter(move |t| self.0 & (1 << t) != 0)
    }
}

/// Frames that an output frame sees at most.
pub(crate) const MOST: usize = 3;

/// A convolution's geometry in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    /// Taps: 1 or 3.
    pub(crate) kernel: usize,
    /// From an output to the next: 1 or 2.
    pub(crate) stride: usize,
    /// Frames before the first and behind the last, fewer than there are taps.
    pub(crate) padding: [usize; 2],
    pub(crate) mode: PaddingMode,
    /// Whether the convolution sees each frame but the first twice.
    pub(crate) upsampled: bool,
}

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
    /// For `frames` input frames.
    ///
    /// # Panics
    /// When they are fewer, with the padding, than the kernel's taps, or too few to be mirrored.
    pub(crate) fn new(frames: usize, time: Time) -> Self {
        let Time { kernel, stride, padding: [before, after], mode, upsampled } = time;
        let shown = if upsampled { 2 * frames - 1 } else { frames };
        assert!(before.max(after) < kernel, "a padding of {before} and {after} frames for {kernel} taps");
        assert!(before + shown + after >= kernel, "{shown} padded frames are fewer than the {kernel} taps");
        let mirrors = mode != PaddingMode::Reflect || shown > before.max(after);
        assert!(mirrors, "{shown} frames cannot be mirrored over {before} and {after}");
        let count = (before + shown + after - kernel) / stride + 1;
        // For each output the frames that it sees, each with its taps.
        let seen: Vec<Vec<(usize, TimeTaps)>> = (0..count)
            .map(|t| {
                let mut seen: Vec<(usize, TimeTaps)> = Vec::with_capacity(MOST);
                for tap in 0..kernel {
                    let at = mode.brought_in((t * stride + tap) as isize - before as isize, shown as isize);
                    let Some(at) = usize::try_from(at).ok().filter(|&at| at < shown) else { continue };
                    let frame = if upsampled { at.div_ceil(2) } else { at };
                    match seen.iter_mut().find(|(other, _)| *other == frame) {
                        Some((_, taps)) => taps.0 |= 1 << tap,
                        None => seen.push((frame, TimeTaps(1 << tap))),
                    }
                }
                seen
            })
            .collect();
        // Outputs that see most frames first, so that others find their filters among theirs.
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&t| std::cmp::Reverse(seen[t].len()));
        let mut filters = Vec::new();
        let mut outputs = vec![OutputFrame { frames: [0; MOST], count: 0, first: 0 }; count];
        for t in order {
            outputs[t] = place(&mut filters, &seen[t]);
        }
        Self { filters, outputs }
    }
}

/// An output that sees these frames, in whatever order needs the fewest new filters; these are added.
fn place(filters: &mut Vec<TimeTaps>, seen: &[(usize, TimeTaps)]) -> OutputFrame {
    const ORDERS: [[usize; MOST]; 6] = [[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1]];
    let orders = ORDERS.map(|order| order.into_iter().filter(|&i| i < seen.len()).map(|i| seen[i]).collect());
    // Where an order's filters begin: the more of them are there already, the better.
    let first = |order: &Vec<(usize, TimeTaps)>| {
        let fits =
            |&first: &usize| filters[first..].iter().zip(order).all(|(filter, (_, taps))| filter == taps);
        (0..filters.len()).find(fits).unwrap_or(filters.len())
    };
    let order = orders.iter().min_by_key(|order| (first(order) + order.len()).max(filters.len()));
    let Some(order) = order else { unreachable!("there are six") };
    let first = first(order);
    let missing = (first + order.len()).saturating_sub(filters.len());
    filters.extend(order[order.len() - missing..].iter().map(|(_, taps)| *taps));
    let mut frames = [0; MOST];
    for (to, (frame, _)) in frames.iter_mut().zip(order) {
        *to = *frame;
    }
    OutputFrame { frames, count: order.len(), first }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSAL: Time =
        Time { kernel: 3, stride: 1, padding: [2, 0], mode: PaddingMode::Replicate, upsampled: false };

    /// Every output is the sum that the definition says, tap by tap.
    #[test]
    fn schedules_are_convolutions_over_time() {
        let weight = [0.25f32, 7.0, 64.0];
        let modes = [PaddingMode::Zeros, PaddingMode::Replicate, PaddingMode::Reflect];
        let mut checked = 0;
        for frames in 1..9usize {
            let x: Vec<f32> = (0..frames).map(|f| (f * f + 3) as f32).collect();
            for (mode, kernel) in modes.into_iter().flat_map(|mode| [1, 3].map(|kernel| (mode, kernel))) {
                for (padding, stride) in
                    [[0, 0], [2, 0], [1, 1], [0, 2]].into_iter().flat_map(|p| [1, 2].map(|s| (p, s)))
                {
                    for upsampled in [false, true] {
                        let shown: Vec<f32> = if upsampled {
                            (0..2 * frames - 1).map(|t: usize| x[t.div_ceil(2)]).collect()
                        } else {
                            x.clone()
                        };
                        let most = padding[0].max(padding[1]);
                        if most >= kernel
                            || shown.len() + padding[0] + padding[1] < kernel
                            || (mode == PaddingMode::Reflect && shown.len() <= most)
                        {
                            continue;
                        }
                        let at = |i: isize| {
                            let last = shown.len() as isize - 1;
                            match mode {
                                PaddingMode::Zeros if i < 0 || i > last => 0.0,
                                PaddingMode::Replicate => shown[i.clamp(0, last) as usize],
                                PaddingMode::Reflect if i < 0 => shown[(-i) as usize],
                                PaddingMode::Reflect if i > last => shown[(2 * last - i) as usize],
                                _ => shown[i as usize],
                            }
                        };
                        let time = Time { kernel, stride, padding, mode, upsampled };
                        let schedule = Schedule::new(frames, time);
                        let outputs = (shown.len() + padding[0] + padding[1] - kernel) / stride + 1;
                        assert_eq!(schedule.outputs.len(), outputs);
                        let mut newest = 0;
                        for (t, output) in schedule.outputs.iter().enumerate() {
                            let begin = (t * stride) as isize - padding[0] as isize;
                            let want: f32 = (0..kernel).map(|k| weight[k] * at(begin + k as isize)).sum();
                            let got: f32 = output
                                .frames()
                                .iter()
                                .zip(&schedule.filters[output.first..])
                                .map(|(&frame, taps)| taps.sum(|k| weight[k]) * x[frame])
                                .sum();
                            assert_eq!(got, want, "output {t} of {frames} frames, {time:?}");
                            assert!(output.first + output.frames().len() <= schedule.filters.len());
                            // What the ring of the kernels holds.
                            newest = output.frames().iter().copied().fold(newest, usize::max);
                            assert!(output.frames().iter().all(|f| f + MOST > newest), "{time:?}");
                            checked += 1;
                        }
                    }
                }
            }
        }
        assert!(checked > 1000, "{checked}");
    }

    #[test]
    fn repeated_frames_save_products_and_filters() {
        let schedule = |frames, upsampled| Schedule::new(frames, Time { upsampled, ..CAUSAL });
        let products = |frames, upsampled| {
            schedule(frames, upsampled).outputs.iter().map(|o| o.frames().len()).sum::<usize>()
        };
        assert_eq!([products(3, false), products(5, false)], [6, 12]);
        assert_eq!([products(3, true), products(5, true)], [9, 17]);
        assert_eq!([schedule(9, false).filters.len(), schedule(9, true).filters.len()], [5, 5]);
        let zeros = Schedule::new(9, Time { mode: PaddingMode::Zeros, ..CAUSAL });
        assert_eq!(zeros.filters.len(), 3, "what sees fewer frames finds its filters among the others'");
    }
}
