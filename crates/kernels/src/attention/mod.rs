//! Self-attention over the positions of an image, in blocks with a running softmax.
//!
//! The matrix of scores never exists: a worker takes a block of queries, goes over the keys block by block, and
//! keeps for each query the largest score so far, the sum of exponentials, and the weighted sum of values, rescaled
//! when the largest grows (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
//!
//! Two biases cost nothing: that of the keys adds the same number to all scores of a query, which the softmax takes
//! away again; that of the values passes through it unchanged, as its weights sum to one, and joins the output's.

mod block;
mod tile_scratch;
mod tiles;
mod vectors;

use std::ops::Range;

use crate::context::Context;
use crate::conv::{check_weights, unit_for};
use crate::features::{Features, Storage};
use crate::norm::{Affine, Norm};
use crate::plan;
use crate::simd::amx::Amx;
use crate::sink::Sink;
use crate::source::{PaddingMode, Source, View};
use crate::watch::{Stopped, Watched};
use crate::weights::WeightView;
use tiles::Tiles;
use vectors::Vectors;

/// The weights of an attention block: linear layers `[C, C]` with biases `[C]` or empty.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Normalises the input of all three projections, if there is one.
    pub norm: Option<Norm<'a>>,
    /// Heads, which divide the channels: each mixes its own channels of the values by scores of its own.
    pub heads: usize,
    /// Query weights.
    pub to_q: (WeightView<'a>, &'a [f32]),
    /// Key weights.
    pub to_k: (WeightView<'a>, &'a [f32]),
    /// Value weights.
    pub to_v: (WeightView<'a>, &'a [f32]),
    /// Output weights.
    pub to_out: (WeightView<'a>, &'a [f32]),
}

/// One image: what is read, where results go, and what all ways of computing them share.
struct Image<'a> {
    /// All positions as one row.
    view: View<'a>,
    sink: Sink<'a>,
    /// Which part of all work it is.
    share: Range<f64>,
    /// Positions that see each other; they see those before them too.
    area: usize,
    bias_q: &'a [f32],
    /// 1 / sqrt(C / heads)
    factor: f32,
}

impl Attention<'_> {
    /// `x + to_out(softmax(q kᵀ / sqrt(C / heads)) v)`, each image on its own, in the memory of `x`.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When shapes do not fit together.
    pub fn run(
        &self,
        context: &Context,
        x: Features,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        let tokens = x.height * x.width;
        self.run_seeing(context, x, tokens, watched)
    }

    /// [`Attention::run`] where each position sees those of its own `area` positions and of all areas before it.
    pub(crate) fn run_seeing(
        &self,
        context: &Context,
        x: Features,
        area: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        let channels = x.channels;
        for (weight, bias) in [self.to_q, self.to_k, self.to_v, self.to_out] {
            check_weights(weight, &[channels, channels], bias);
        }
        assert_eq!(x.storage, context.storage, "the storage of the input, whose memory the output takes");
        let heads = self.heads;
        assert!(heads > 0 && channels.is_multiple_of(heads), "{heads} heads of {channels} channels");
        let affine = match self.norm {
            Some(norm) => Affine::norm(context, &x, norm)?,
            None => Affine::units(&x),
        };
        let (bias_q, bias_out) = self.biases(channels, x.stride);
        let unit = self.unit(context, &x, &affine, &bias_out);
        let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
        let mut all_stats = Vec::with_capacity(x.batch);
        let source = Source { x: &x, affine: Some(&affine), activation: None, mode: PaddingMode::Zeros };
        let amx = Amx::new().filter(|_| heads == 1 && plan::tiles_are_exact(context, &x, &affine));
        let mut tiles = amx.map(|amx| Tiles::new(amx, context, self, &x)).transpose()?;
        let mut vectors = None;
        for image in 0..x.batch {
            let share = [image, image + 1].map(|images| images as f64 / x.batch as f64);
            let job = Image {
                share: share[0]..share[1],
                view: source.view(image).flat(),
                sink: Sink::new(x.target(), image, &bias_out, Some(&x.unit), &inverse_unit),
                area,
                bias_q: &bias_q,
                factor: 1.0 / ((channels / heads) as f32).sqrt(),
            };
            let in_tiles = match &tiles {
                Some(tiles) => tiles.image(context, &job, watched)?,
                None => None,
            };
            let stats = match in_tiles {
                Some(stats) => stats,
                None => {
                    tiles = None;
                    let vectors = match &vectors {
                        Some(vectors) => vectors,
                        None => vectors.insert(Vectors::new(context, self, &x)?),
                    };
                    vectors.image(context, &job, watched)?
                }
            };
            all_stats.push(stats);
        }
        Ok(Features { unit, stats: all_stats, ..x })
    }

    /// The query's bias, and the output's with the value's passed through the output layer; both padded.
    fn biases(&self, channels: usize, stride: usize) -> (Vec<f32>, Vec<f32>) {
        let mut query = self.to_q.1.to_vec();
        query.resize(stride, 0.0);
        let mut out = self.to_out.1.to_vec();
        out.resize(stride, 0.0);
        let mut row = vec![0.0; channels];
        for (c, out) in out.iter_mut().enumerate().take(channels) {
            self.to_out.0.read(c * channels, &mut row);
            let sum: f64 = row.iter().zip(self.to_v.1).map(|(&w, &b)| f64::from(w) * f64::from(b)).sum();
            *out = (f64::from(*out) + sum) as f32;
        }
        (query, out)
    }

    /// Units in which no output can overflow: attention weights sum to one, so no output of the softmax is larger
    /// than the largest value.
    fn unit(&self, context: &Context, x: &Features, affine: &Affine, bias_out: &[f32]) -> Vec<f32> {
        if context.storage == Storage::F32 {
            return vec![1.0; x.stride];
        }
        let channels = x.channels;
        let absolute = |weight: WeightView<'_>, bounds: &[f32]| -> Vec<f32> {
            let mut row = vec![0.0; channels];
            (0..channels)
                .map(|c| {
                    weight.read(c * channels, &mut row);
                    row.iter().zip(bounds).map(|(w, b)| w.abs() * b).sum()
                })
                .collect()
        };
        let out = absolute(self.to_out.0, &absolute(self.to_v.0, &affine.bound));
        let mut unit = vec![1.0; x.stride];
        for c in 0..channels {
            let residual = x.stats.iter().fold(0.0f32, |m, s| m.max(s.abs_max[c]));
            unit[c] = unit_for(f64::from(out[c] + bias_out[c].abs() + residual));
        }
        unit
    }
}
