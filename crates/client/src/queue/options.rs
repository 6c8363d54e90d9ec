//! How a queue works, and how far it is.

/// In which order results come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// As they were submitted: a slow one holds back those behind it.
    #[default]
    Submitted,
    /// As they are done.
    Done,
}

/// How a queue works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    pub(super) in_flight: usize,
    pub(super) capacity: usize,
    pub(super) order: Order,
}

impl Default for QueueOptions {
    /// Four requests at a time, sixteen items in the house, results in the order of submission.
    fn default() -> Self {
        Self { in_flight: 4, capacity: 16, order: Order::default() }
    }
}

impl QueueOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many requests are under way at a time, at least one. Two or more keep the server busy while an answer
    /// travels.
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = requests.max(1);
        self
    }

    /// How many items may be in the house, at least one: waiting, under way, or done and not yet taken. One more
    /// waits in `submit`, so that memory is bounded whoever is the slowest.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items.max(1);
        self
    }

    /// In which order results come.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }
}

/// How far a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Items submitted so far: the sum of all others.
    pub submitted: usize,
    /// Not yet begun.
    pub waiting: usize,
    /// Under way.
    pub in_flight: usize,
    /// Done well, whether their result is taken or not.
    pub succeeded: usize,
    /// Failed, whether their result is taken or not.
    pub failed: usize,
}
