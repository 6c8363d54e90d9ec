//! How much a model has to do, known from its shapes alone.

/// The multiply-adds of a layer, for each position of the latents. It is the unit of progress: equal costs take
/// roughly equal times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// However many positions there are.
    pub(crate) fixed: usize,
    /// This much more for each of the other positions: attention looks at them all.
    pub(crate) per_position: usize,
}

impl Cost {
    /// The cost of an image with this many positions.
    pub(crate) fn of_image(self, positions: usize) -> usize {
        self.per_position.saturating_mul(positions).saturating_add(self.fixed).saturating_mul(positions)
    }
}

/// What one pass through a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Workload {
    /// All layers together.
    pub(crate) cost: Cost,
    /// The values in the largest tensor between two layers, for each position of the latents.
    pub(crate) largest_tensor: usize,
}

impl Workload {
    /// With one more layer, which puts out `values` for each position of the latents.
    pub(crate) fn with_layer(self, cost: Cost, values: usize) -> Self {
        Self {
            cost: Cost {
                fixed: self.cost.fixed + cost.fixed,
                per_position: self.cost.per_position + cost.per_position,
            },
            largest_tensor: self.largest_tensor.max(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_add_up_and_never_overflow() {
        let conv = Cost { fixed: 10, per_position: 0 };
        let attention = Cost { fixed: 4, per_position: 2 };
        let workload = Workload::default().with_layer(conv, 7).with_layer(attention, 5);
        assert_eq!(workload.largest_tensor, 7);
        assert_eq!(workload.cost.of_image(3), 3 * (14 + 2 * 3));
        assert_eq!(attention.of_image(usize::MAX), usize::MAX);
    }
}
