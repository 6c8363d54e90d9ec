//! Which parts of the slab are free, and which of them have pages.

use std::ops::Range;

use super::slab::Slab;
use super::{GRAIN, RESERVE};

/// What an arena has.
#[derive(Default)]
pub(super) struct Books {
    /// The reserved addresses; none before the first buffer.
    pub(super) slab: Option<Slab>,
    /// What of them is free, in order, neighbours merged if they are alike.
    pub(super) free: Vec<Hole>,
    /// Bytes handed out, the most that ever were, and bytes that have pages.
    pub(super) live: usize,
    pub(super) most: usize,
    pub(super) resident: usize,
    /// The most bytes that were handed out at once, since the last [`Arena::begin_peak`].
    pub(super) peak: usize,
    /// Nobody touches what is handed out: see [`Arena::rehearsal`].
    pub(super) rehearsal: bool,
}

/// A free part of the slab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) at: Range<usize>,
    /// Whether it has pages.
    pub(super) resident: bool,
}

impl Books {
    /// Reserves the addresses, if that was not done before.
    pub(super) fn reserve(&mut self) -> Option<()> {
        if self.slab.is_none() {
            let mut size = RESERVE;
            let slab = loop {
                match Slab::new(size) {
                    Some(slab) => break slab,
                    None => size = (size / 2 >= GRAIN).then_some(size / 2)?,
                }
            };
            // Whole grains, so that a huge page never belongs to two buffers.
            let begin = slab.ptr().addr().next_multiple_of(GRAIN) - slab.ptr().addr();
            let end = begin + (size - begin) / GRAIN * GRAIN;
            self.free = vec![Hole { at: begin..end, resident: false }];
            self.slab = Some(slab);
        }
        Some(())
    }

    pub(super) fn address(&self, offset: usize) -> Option<*mut u8> {
        Some(self.slab.as_ref()?.ptr().wrapping_add(offset))
    }

    /// Where `bytes` should go: at the beginning or the end of some free run, with the fewest fresh pages; among equals
    /// in the shortest run.
    pub(super) fn place(&self, bytes: usize) -> Option<Range<usize>> {
        let mut best: Option<((usize, usize), Range<usize>)> = None;
        let mut first = 0;
        while first < self.free.len() {
            let mut last = first;
            while last + 1 < self.free.len() && self.free[last + 1].at.start == self.free[last].at.end {
                last += 1;
            }
            let run = self.free[first].at.start..self.free[last].at.end;
            first = last + 1;
            if run.len() < bytes {
                continue;
            }
            for at in [run.start..run.start + bytes, run.end - bytes..run.end] {
                let cost = (self.fresh(&at), run.len());
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, at));
                }
            }
        }
        best.map(|(_, at)| at)
    }

    /// Bytes of a free range that have no pages.
    pub(super) fn fresh(&self, at: &Range<usize>) -> usize {
        let inside = |hole: &Hole| {
            hole.at.end.min(at.end).saturating_sub(hole.at.start.max(at.start)) * usize::from(!hole.resident)
        };
        self.free.iter().map(inside).sum()
    }

    /// Takes a free range out of the books.
    pub(super) fn hand_out(&mut self, at: Range<usize>) {
        self.resident += self.fresh(&at);
        self.live += at.len();
        self.most = self.most.max(self.live);
        self.peak = self.peak.max(self.live);
        let cut = |hole: Hole| {
            let before = hole.at.start..hole.at.end.min(at.start);
            let after = hole.at.start.max(at.end)..hole.at.end;
            [before, after].map(|at| Hole { at, resident: hole.resident })
        };
        self.free = self.free.drain(..).flat_map(cut).filter(|hole| !hole.at.is_empty()).collect();
    }

    /// Puts a range back.
    pub(super) fn put_back(&mut self, at: Range<usize>) {
        if at.is_empty() {
            return;
        }
        self.live -= at.len();
        let index = self.free.partition_point(|hole| hole.at.start < at.start);
        self.free.insert(index, Hole { at, resident: true });
        self.merge();
    }

    /// Merges neighbours that are alike.
    pub(super) fn merge(&mut self) {
        self.free.dedup_by(|next, hole| {
            let alike = hole.at.end == next.at.start && hole.resident == next.resident;
            if alike {
                hole.at.end = next.at.end;
            }
            alike
        });
    }

    /// Keeps what has pages near the most that was ever in use.
    pub(super) fn give_back_holes(&mut self) {
        let allowed = self.most + self.most / 16;
        if self.resident > allowed {
            self.give_back(self.resident - allowed);
        }
    }

    /// Gives pages of free memory back, the longest holes first, until `bytes` are given or nothing is left.
    pub(super) fn give_back(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(slab) = &self.slab else { break };
            let resident = (0..self.free.len()).filter(|&i| self.free[i].resident);
            let Some(index) = resident.max_by_key(|&i| self.free[i].at.len()) else { break };
            let hole = self.free[index].at.clone();
            let size = hole.len().min(bytes.div_ceil(GRAIN).saturating_mul(GRAIN));
            let given = hole.end - size..hole.end;
            // SAFETY: the range is part of a hole, so it belongs to no buffer: whoever gets it next expects unspecified
            // content.
            unsafe { slab.release(given.start, size) };
            self.free[index].at.end = given.start;
            self.free.insert(index + 1, Hole { at: given, resident: false });
            self.resident -= size;
            bytes = bytes.saturating_sub(size);
            self.free.retain(|hole| !hole.at.is_empty());
            self.merge();
        }
    }
}
