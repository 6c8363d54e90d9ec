//! What an encoder finds: not latents, but a normal distribution of each latent.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::HostTensor;

/// The lower bound of the log-variance, as diffusers clamps it.
pub(crate) const LEAST_LOGVAR: f32 = -30.0;

/// The upper one.
const MOST_LOGVAR: f32 = 20.0;

/// Which latents of the distribution are wanted: `sample_mode` of diffusers' `retrieve_latents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleMode {
    /// `"sample"`: drawn at random; see [`DiagonalGaussianDistribution::sample`].
    Sample {
        /// The same seed gives the same noise, so that an encode can be repeated.
        seed: u64,
    },
    /// `"argmax"`: the most likely ones; see [`DiagonalGaussianDistribution::mode`].
    Argmax,
}

/// diffusers' `DiagonalGaussianDistribution`: a mean and a variance for each latent.
#[derive(Clone, Debug, PartialEq)]
pub struct DiagonalGaussianDistribution {
    mean: HostTensor,
    logvar: Vec<f32>,
}

impl DiagonalGaussianDistribution {
    /// Takes apart what [`Vae::encode`](crate::Vae::encode) gave: the first half of the channels is the mean, the
    /// second half the logarithm of the variance.
    ///
    /// # Panics
    /// When `moments` has no second axis of even length: a bug of a model.
    pub fn new(moments: HostTensor) -> Self {
        let HostTensor { mut shape, data } = moments;
        assert!(shape.len() >= 2 && shape[1] % 2 == 0, "moments {shape:?} have no two halves");
        let image = shape[1..].iter().product::<usize>().max(1);
        shape[1] /= 2;
        let (mut mean, mut logvar) = (Vec::with_capacity(data.len() / 2), Vec::with_capacity(data.len() / 2));
        for image in data.chunks_exact(image) {
            let (first, second) = image.split_at(image.len() / 2);
            mean.extend_from_slice(first);
            logvar.extend(second.iter().map(|logvar| logvar.clamp(LEAST_LOGVAR, MOST_LOGVAR)));
        }
        Self { mean: HostTensor::new(shape, mean), logvar }
    }

    /// The latents that `mode` asks for, `[B, C, ...]`, not scaled.
    pub fn latents(self, mode: SampleMode) -> HostTensor {
        match mode {
            SampleMode::Sample { seed } => self.sample(seed),
            SampleMode::Argmax => self.mode(),
        }
    }

    /// The most likely latents: the mean.
    pub fn mode(self) -> HostTensor {
        self.mean
    }

    /// Latents drawn from the distribution, `mean + exp(logvar / 2) * noise`.
    ///
    /// The noise is standard normal: the ziggurat method (`StandardNormal` of crate `rand_distr`) on the ChaCha8 stream that
    /// `rand_chacha` makes of `seed` (`seed_from_u64`), value by value in C order, over the whole batch. It is drawn on
    /// one thread, so that a seed gives the same noise on every machine and with any number of threads; PyTorch's
    /// generators give other noise.
    pub fn sample(mut self, seed: u64) -> HostTensor {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        for (value, logvar) in self.mean.data.iter_mut().zip(&self.logvar) {
            let noise: f32 = StandardNormal.sample(&mut generator);
            // At the lower bound there is no variance: the latents of a model that gives no distribution stay what they are.
            if *logvar > LEAST_LOGVAR {
                *value += (0.5 * logvar).exp() * noise;
            }
        }
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(mean: f32, logvar: f32, count: usize) -> HostTensor {
        let mut data = vec![mean; count];
        data.extend(vec![logvar; count]);
        HostTensor::new(vec![1, 2, 1, count], data)
    }

    #[test]
    fn halves_of_each_image_are_mean_and_variance() {
        let moments = HostTensor::new(vec![2, 4, 1, 1], vec![1., 2., 99., -99., 3., 4., 0., -1.]);
        let posterior = DiagonalGaussianDistribution::new(moments);
        assert_eq!(posterior.logvar, [20., -30., 0., -1.]);
        assert_eq!(posterior.mode(), HostTensor::new(vec![2, 2, 1, 1], vec![1., 2., 3., 4.]));
    }

    #[test]
    fn samples_have_the_mean_and_the_variance() {
        const COUNT: usize = 200_000;
        for (mean, variance) in [(0.0, 1.0), (-3.0, 0.25), (10.0, 9.0f64)] {
            let moments = moments(mean, variance.ln() as f32, COUNT);
            let sample = DiagonalGaussianDistribution::new(moments).sample(7).data;
            let n = COUNT as f64;
            let found = sample.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let spread = sample.iter().map(|&x| (f64::from(x) - f64::from(mean)).powi(2)).sum::<f64>() / n;
            // Five deviations of each estimate.
            assert!((found - f64::from(mean)).abs() < 5.0 * (variance / n).sqrt(), "{found}");
            assert!((spread / variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{spread}");
        }
    }

    #[test]
    fn a_seed_repeats_and_another_does_not() {
        let sample = |seed| DiagonalGaussianDistribution::new(moments(0.0, 0.0, 64)).sample(seed);
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
        let latents = |mode| DiagonalGaussianDistribution::new(moments(0.0, 0.0, 64)).latents(mode);
        assert_eq!(latents(SampleMode::Sample { seed: 2 }), sample(2));
        assert_eq!(latents(SampleMode::Argmax).data, [0.0; 64]);
        // What seed 0 gives, written down: an update of a crate must not change it unseen.
        let first: Vec<_> = sample(0).data[..4].to_vec();
        assert_eq!(first, [0.69996077, -0.14406164, 0.30288628, -1.3745139]);
    }
}
