//! What to ask for, in diffusers' words.

mod decode;
mod encode;

use wire::{Scaling, Survey, Tensor};

pub use self::decode::{DecodeOptions, OutputType};
pub use self::encode::EncodeOptions;
use crate::Error;

/// The builder of options: the defaults, and for each field a method of its name that sets it.
macro_rules! setters {
    ($options:ident: $($field:ident: $value:ty),+ $(,)?) => {
        impl $options {
            /// The defaults.
            pub fn new() -> Self {
                Self::default()
            }

            $(
                #[doc = concat!("Sets [`", stringify!($options), "::", stringify!($field), "`].")]
                pub fn $field(mut self, $field: $value) -> Self {
                    self.$field = $field.into();
                    self
                }
            )+
        }
    };
}
use setters;

/// How latents are scaled, in both directions.
///
/// # Errors
/// [`Error::Options`] when the three contradict each other.
fn scaling(
    do_scaling: bool,
    scaling_factor: Option<f32>,
    shift_factor: Option<f32>,
) -> Result<Scaling, Error> {
    let wrong = |message: &str| Err(Error::Options(message.to_owned()));
    match (do_scaling, scaling_factor, shift_factor) {
        (true, None, None) => Ok(Scaling::Model),
        (true, Some(factor), _) if factor == 0.0 || !factor.is_finite() => {
            wrong("`scaling_factor` must be a finite number other than 0")
        }
        (true, Some(_), Some(shift)) if !shift.is_finite() => wrong("`shift_factor` must be a finite number"),
        (true, Some(scaling_factor), shift_factor) => Ok(Scaling::Factors { scaling_factor, shift_factor }),
        (true, None, Some(_)) => wrong("`shift_factor` needs `scaling_factor` beside it"),
        (false, None, None) => Ok(Scaling::None),
        (false, _, _) => {
            wrong("`scaling_factor` and `shift_factor` have no effect without `do_scaling`: drop one")
        }
    }
}

/// Checks that all values are numbers: of anything else no server makes a picture or latents.
///
/// # Errors
/// [`Error::NonFinite`] with how many are not, and where.
pub(crate) fn check_finite(tensor: &Tensor, what: &str, allowed: bool) -> Result<(), Error> {
    match Survey::of(tensor).non_finite(what).filter(|_| !allowed) {
        None => Ok(()),
        Some(found) => Err(Error::NonFinite(format!(
            "{found}; `allow_non_finite` (--allow-non-finite) sends them all the same, to a server that was started with that \
             flag too"
        ))),
    }
}
