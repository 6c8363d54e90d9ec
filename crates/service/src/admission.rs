//! Whether a request fits into the memory there is, decided before any is taken for it.

use vae::{DecodeOptions, EncodeOptions, Forecast, VaeError, VaeInfo};

use crate::budget::{Budget, size};
use crate::config::Config;
use crate::failure::Failure;
use crate::forecasts::Forecasts;

/// How far the service may go from an exact decode that does not fit into its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLarge {
    /// The exact decode is tried in any case, at the risk that the system ends the process.
    Exact,
    /// As for [`OnLarge::Refuse`], but values may take 16 bits between layers.
    #[default]
    Lean,
    /// As for [`OnLarge::Lean`], and where that does not fit either, it may be done in tiles.
    Tile,
    /// It is refused.
    Refuse,
}

/// How a request is decoded or encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In 32 bits, and in one piece, or cut so that the result is the same.
    Exact,
    /// The same with 16 bits a value between layers.
    Lean,
    /// In tiles.
    Tile,
}

impl Mode {
    /// As answers and the metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Lean => "lean",
            Self::Tile => "tile",
        }
    }
}

/// A request that fits, as it will be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted<O> {
    pub(crate) options: O,
    pub(crate) mode: Mode,
    /// `None` for a model that cannot tell.
    pub(crate) forecast: Option<Forecast>,
}

/// What there is, and what may be done where it is not enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission {
    pub(crate) budget: Budget,
    pub(crate) on_large: OnLarge,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        Self { budget: Budget::new(config), on_large: config.on_large }
    }

    /// The same beside so many bytes of weights that are copied into memory.
    pub(crate) fn beside(self, copied: usize) -> Self {
        Self { budget: self.budget.beside(copied), ..self }
    }

    /// How to decode latents of this shape. It depends on nothing else that the server does or holds, so the same request
    /// is always done in the same way.
    ///
    /// # Errors
    /// [`TooLarge`](crate::FailureKind::TooLarge) with the numbers when they do not fit in any way that is allowed;
    /// [`Unprocessable`](crate::FailureKind::Unprocessable) when the model cannot decode them so.
    pub(crate) fn decode(
        &self,
        forecasts: Option<&Forecasts>,
        latents: &[usize],
        options: DecodeOptions,
    ) -> Result<Granted<DecodeOptions>, Failure> {
        // What the whole would take too much for is done in bands where that gives the same.
        let options = DecodeOptions { memory: self.room(), ..options };
        let ways = [
            options,
            DecodeOptions { lean: true, ..options },
            DecodeOptions { tiling: true, framewise: true, ..options },
        ];
        let Some(forecasts) = forecasts else {
            let mode = if options.tiling { Mode::Tile } else { Mode::Exact };
            return Ok(Granted { options, mode, forecast: None });
        };
        let cut = |options: &DecodeOptions| {
            let side = forecasts.tile_latent_min_size();
            options.tiling
                && latents.iter().rev().take(2).any(|&length| side.is_some_and(|side| length > side))
        };
        self.choose(ways, cut, |options| forecasts.decode(latents, options))
    }

    /// How to encode pixels of this shape.
    ///
    /// # Errors
    /// As for [`Admission::decode`].
    pub(crate) fn encode(
        &self,
        forecasts: Option<&Forecasts>,
        pixels: &[usize],
        options: EncodeOptions,
    ) -> Result<Granted<EncodeOptions>, Failure> {
        let options = EncodeOptions { memory: self.room(), ..options };
        // Encoders keep 32 bits between their layers.
        let ways = [options, options, EncodeOptions { tiling: true, framewise: true, ..options }];
        let Some(forecasts) = forecasts else {
            let mode = if options.tiling { Mode::Tile } else { Mode::Exact };
            return Ok(Granted { options, mode, forecast: None });
        };
        let cut = |options: &EncodeOptions| {
            let side = forecasts.tile_sample_min_size();
            options.tiling
                && pixels.iter().rev().take(2).any(|&length| side.is_some_and(|side| length > side))
        };
        self.choose(ways, cut, |options| forecasts.encode(pixels, options))
    }

    /// Bytes that work may take; `None` where it is tried in any case.
    pub(crate) fn room(&self) -> Option<usize> {
        self.budget.work().filter(|_| self.on_large != OnLarge::Exact)
    }

    /// Checks that a model can do anything at all: that there is room for latents of this shape, its smallest.
    ///
    /// # Errors
    /// What is missing, and which flag to raise.
    pub(crate) fn check_smallest(
        &self,
        forecasts: Option<&Forecasts>,
        latents: &[usize],
        info: &VaeInfo,
    ) -> Result<(), String> {
        let (Some(room), Some(forecasts)) = (self.room(), forecasts) else { return Ok(()) };
        let lean = self.on_large != OnLarge::Refuse;
        let options = DecodeOptions { lean, memory: Some(room), ..DecodeOptions::default() };
        // A model that cannot be decoded so says why in its first decode.
        let Ok(forecast) = forecasts.decode(latents, &options) else { return Ok(()) };
        if forecast.memory() <= room {
            return Ok(());
        }
        let side = 2 * info.spatial_factor;
        Err(format!(
            "even {side} x {side} pixels take {} of memory, and --memory-limit {} leaves {} for work: raise the limit",
            size(forecast.memory()),
            size(self.budget.limit.unwrap_or(usize::MAX)),
            size(room)
        ))
    }

    /// The first of the ways, exact, lean and tiled, that is allowed and fits.
    fn choose<O: Copy + PartialEq>(
        &self,
        ways: [O; 3],
        cut: impl Fn(&O) -> bool,
        forecast: impl Fn(&O) -> Result<Forecast, VaeError>,
    ) -> Result<Granted<O>, Failure> {
        let grant = |options: O, forecast: Forecast| {
            let mode = match (cut(&options), forecast.lean) {
                (true, _) => Mode::Tile,
                (false, true) => Mode::Lean,
                (false, false) => Mode::Exact,
            };
            Granted { options, mode, forecast: Some(forecast) }
        };
        let [exact, lean, tiled] = ways;
        let first = forecast(&exact).map_err(Failure::from)?;
        let Some(room) = self.room() else {
            return Ok(grant(exact, first));
        };
        if first.memory() <= room {
            return Ok(grant(exact, first));
        }
        let mut least = first;
        // A model that cannot be decoded so says why, but nobody has asked for it.
        let others = [(lean, OnLarge::Lean), (tiled, OnLarge::Tile)];
        let mut would_fit_in_tiles = false;
        for (options, needed) in others {
            if options == exact {
                continue;
            }
            let Ok(forecast) = forecast(&options) else { continue };
            let fits = forecast.memory() <= room;
            let allowed = self.on_large == needed || self.on_large == OnLarge::Tile;
            if fits && allowed {
                return Ok(grant(options, forecast));
            }
            would_fit_in_tiles |= fits && needed == OnLarge::Tile;
            if allowed && forecast.memory() < least.memory() {
                least = forecast;
            }
        }
        let advice =
            if would_fit_in_tiles { "send less, or ask for tiles with tiling=True" } else { "send less" };
        Err(Failure::too_large(format!(
            "this would take {} of memory, and the server has {} for it, of {} in all (--memory-limit): {advice}",
            size(least.memory()),
            size(room),
            size(self.budget.limit.unwrap_or(usize::MAX))
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    const MIB: usize = 1 << 20;

    fn choose(on_large: OnLarge, limit: Option<usize>) -> Result<(&'static str, Mode), String> {
        let budget = Budget { limit: limit.map(|mib| mib * MIB), bodies: 34 * MIB, copied: 0 };
        let admission = Admission { budget, on_large };
        // Options that are their own names; they take 800, 400 and 100 MiB. Bodies and the process itself take 50.
        let forecast = |name: &&'static str| {
            let (memory, lean) = match *name {
                "exact" => (800, false),
                "lean" => (400, true),
                _ => (100, false),
            };
            Ok(Forecast { engine_memory: memory * MIB, host_memory: 0, work: 1, lean, cut: None })
        };
        let granted = admission.choose(["exact", "lean", "tile"], |name| *name == "tile", forecast);
        granted.map(|granted| (granted.options, granted.mode)).map_err(|error| {
            assert_eq!(error.kind, FailureKind::TooLarge);
            error.message
        })
    }

    #[test]
    fn what_fits_is_done_exactly() {
        for on_large in [OnLarge::Exact, OnLarge::Lean, OnLarge::Tile, OnLarge::Refuse] {
            assert_eq!(choose(on_large, None), Ok(("exact", Mode::Exact)));
            assert_eq!(choose(on_large, Some(850)), Ok(("exact", Mode::Exact)));
        }
        assert_eq!(choose(OnLarge::Exact, Some(1)), Ok(("exact", Mode::Exact)));
    }

    #[test]
    fn what_does_not_fit_is_done_as_the_policy_says_or_not_at_all() {
        for (limit, lean, tile) in [
            (849, Ok(Mode::Lean), Ok(Mode::Lean)),
            (450, Ok(Mode::Lean), Ok(Mode::Lean)),
            (449, Err("400 MiB"), Ok(Mode::Tile)),
            (150, Err("400 MiB"), Ok(Mode::Tile)),
            (149, Err("400 MiB"), Err("100 MiB")),
        ] {
            for (on_large, expected) in
                [(OnLarge::Lean, lean), (OnLarge::Tile, tile), (OnLarge::Refuse, Err("800 MiB"))]
            {
                let what = format!("{on_large:?} with {limit} MiB");
                match (choose(on_large, Some(limit)), expected) {
                    (Ok((_, mode)), expected) => assert_eq!(Ok(mode), expected, "{what}"),
                    (Err(message), Err(needed)) => {
                        assert!(message.contains(&format!("take {needed} of memory")), "{what}: {message}");
                        assert!(
                            message.contains(&format!("has {} MiB for it, of {limit} MiB", limit - 50)),
                            "{message}"
                        );
                        assert_eq!(message.contains("tiling=True"), limit >= 150, "{what}: {message}");
                    }
                    (Err(message), Ok(_)) => panic!("{what}: {message}"),
                }
            }
        }
    }
}
