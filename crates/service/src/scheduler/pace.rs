//! How fast the models are, learnt from what they have finished.

/// How much weight the newest job has in what is remembered.
const NEWEST: f64 = 0.5;

/// Seconds for a unit of work, by model.
pub(super) struct Pace(Vec<Option<f64>>);

impl Pace {
    /// Nothing is known yet.
    pub(super) fn new(models: usize) -> Self {
        Self(vec![None; models])
    }

    /// As measured, or until then as it is for the other models, if that is known.
    pub(super) fn of(&self, model: usize) -> Option<f64> {
        let own = self.0.get(model).copied().flatten();
        own.or_else(|| {
            let known = || self.0.iter().flatten();
            let count = known().count();
            (count > 0).then(|| known().sum::<f64>() / count as f64)
        })
    }

    /// A job of this model took `newest` seconds for a unit of its work.
    pub(super) fn learn(&mut self, model: usize, newest: f64) {
        if let Some(pace) = self.0.get_mut(model) {
            *pace = Some(pace.map_or(newest, |known| known + NEWEST * (newest - known)));
        }
    }
}
