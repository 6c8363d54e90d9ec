//! What the server has done and how it is, for Prometheus. Numbers only: no content, no addresses, no keys.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use service::{Mode, Outline, Pool, Report, memory};
use wire::Task;

use crate::app::App;

/// What is known of a request only once it has been read, for whoever counts it at its end.
#[derive(Clone, Default)]
pub(crate) struct RequestMetrics(Arc<Facts>);

#[derive(Default)]
struct Facts {
    model: OnceLock<usize>,
    task: OnceLock<&'static str>,
    output: OnceLock<&'static str>,
    mode: OnceLock<Mode>,
    report: OnceLock<Report>,
}

impl RequestMetrics {
    /// The request is for this model. What is said first holds.
    pub(crate) fn set_model(&self, model: usize) {
        let _ = self.0.model.set(model);
    }

    /// The request is to do this.
    pub(crate) fn set_task(&self, task: Task) {
        let _ = self.0.task.set(task.name());
    }

    /// The request wants an answer of this media type.
    pub(crate) fn set_output(&self, media_type: &'static str) {
        let _ = self.0.output.set(media_type);
    }

    /// The request is in the queue.
    pub(crate) fn set_outline(&self, outline: Outline) {
        self.set_task(outline.task);
        self.set_output(outline.media_type);
        let _ = self.0.mode.set(outline.mode);
    }

    /// The work of the request is done.
    pub(crate) fn set_report(&self, report: Report) {
        let _ = self.0.report.set(report);
    }

    /// What its work took; `None` before it is done.
    pub(crate) fn report(&self) -> Option<Report> {
        self.0.report.get().copied()
    }

    /// What is known by now.
    pub(crate) fn labels(&self, app: &App) -> Labels {
        let model = self.0.model.get().and_then(|&model| app.names().get(model));
        Labels {
            // A name that is not served would let anybody make series without end.
            model: model.map_or("none", String::as_str).to_owned(),
            task: self.0.task.get().copied().unwrap_or("unknown"),
            output: self.0.output.get().copied().unwrap_or("unknown"),
            mode: self.0.mode.get().map_or("none", |mode| mode.name()),
        }
    }
}

/// What a request was for, as far as it became known.
pub(crate) struct Labels {
    pub(crate) model: String,
    pub(crate) task: &'static str,
    pub(crate) output: &'static str,
    /// `none` for a request that was not worked on.
    pub(crate) mode: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    model: String,
    task: &'static str,
    output: &'static str,
    /// `none` for a request that was not worked on.
    mode: &'static str,
    /// The HTTP status; 499 for a client that left before its answer, as nginx counts it.
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkLabels {
    model: String,
    task: &'static str,
}

type Histograms = Family<WorkLabels, Histogram, fn() -> Histogram>;

/// The status under which clients are counted that left before their answer.
pub(crate) const LEFT: u16 = 499;

/// All figures.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histograms,
    queue_seconds: Histograms,
    work_seconds: Histograms,
    pixels: Family<WorkLabels, Counter>,
    predicted_memory: Histograms,
    work_memory: Histograms,
    models_loaded: Gauge,
    memory_limit: Gauge,
    peak: Gauge,
    queue_length: Gauge,
    in_flight: Gauge,
    running_frames: Gauge,
    running_frames_done: Gauge,
    ready: Gauge,
    resident: Gauge,
    own: Gauge,
    bodies: Gauge,
    work_held: Gauge,
    answers: Gauge,
}

/// From milliseconds to an hour, four times as long each.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.004, 4.0, 11))
}

/// From a mebibyte to 256 GiB, twice as much each.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(f64::from(1 << 20), 2.0, 19))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("remote_vae");
        let histograms = || Family::new_with_constructor(times as fn() -> Histogram);
        let metrics = Self {
            requests: Family::default(),
            request_seconds: histograms(),
            queue_seconds: histograms(),
            work_seconds: histograms(),
            pixels: Family::default(),
            predicted_memory: Family::new_with_constructor(sizes as fn() -> Histogram),
            work_memory: Family::new_with_constructor(sizes as fn() -> Histogram),
            models_loaded: Gauge::default(),
            memory_limit: Gauge::default(),
            peak: Gauge::default(),
            queue_length: Gauge::default(),
            in_flight: Gauge::default(),
            running_frames: Gauge::default(),
            running_frames_done: Gauge::default(),
            ready: Gauge::default(),
            resident: Gauge::default(),
            own: Gauge::default(),
            bodies: Gauge::default(),
            work_held: Gauge::default(),
            answers: Gauge::default(),
            registry: Registry::default(),
        };
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program that runs", build);
        registry.register(
            "requests",
            "Requests for work that have ended, by model, task, output, mode (exact, lean, tile) and HTTP status (499: the client left)",
            metrics.requests.clone(),
        );
        let seconds = [
            ("request", "Whole time of requests for work", &metrics.request_seconds),
            ("queue", "Time in the queue, of work that was done", &metrics.queue_seconds),
            ("work", "Time in the model, of work that was done", &metrics.work_seconds),
        ];
        for (name, help, family) in seconds {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        let memories = [
            (
                "predicted_memory",
                "Memory that work was going to take, of work that was done",
                &metrics.predicted_memory,
            ),
            ("work_memory", "Memory that the work took at its peak", &metrics.work_memory),
        ];
        for (name, help, family) in memories {
            registry.register_with_unit(name, help, Unit::Bytes, family.clone());
        }
        registry.register("pixels", "Pixels of the work that was done", metrics.pixels.clone());
        let gauges = [
            ("queue_length", "Requests that wait for a model", &metrics.queue_length),
            ("in_flight", "Requests that are accepted and not yet answered", &metrics.in_flight),
            (
                "running_frames",
                "Pictures or frames of the work that is being done; 0 when there is none",
                &metrics.running_frames,
            ),
            ("running_frames_done", "Those of them that are done", &metrics.running_frames_done),
            ("ready", "1 when /ready says so", &metrics.ready),
            ("models_loaded", "Models that are loaded", &metrics.models_loaded),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let memories = [
            ("resident_memory", "Memory of the process, pages of mapped weights among it", &metrics.resident),
            (
                "own_memory",
                "Memory of the process without pages of mapped files: what memory_limit is about",
                &metrics.own,
            ),
            (
                "bodies_memory",
                "Bodies of requests that are on their way or wait, and what was read from them",
                &metrics.bodies,
            ),
            (
                "models_memory",
                "What models work with, and what they keep for the next work",
                &metrics.work_held,
            ),
            (
                "answers_memory",
                "Answers that are written or that clients have not read yet",
                &metrics.answers,
            ),
            ("peak_memory", "The most that resident memory ever was", &metrics.peak),
            (
                "memory_limit",
                "Memory that the process may have while it works; 0: no limit",
                &metrics.memory_limit,
            ),
        ];
        for (name, help, gauge) in memories {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        Self { registry, ..metrics }
    }

    /// A request for work has ended.
    pub(crate) fn ended(&self, labels: Labels, status: u16, took: Duration) {
        let Labels { model, task, output, mode } = labels;
        self.requests
            .get_or_create(&RequestLabels { model: model.clone(), task, output, mode, status })
            .inc();
        self.request_seconds.get_or_create(&WorkLabels { model, task }).observe(took.as_secs_f64());
    }

    /// A model has done its work.
    pub(crate) fn worked(&self, model: &str, report: &Report) {
        let Report { outline, forecast, memory, queued, worked, .. } = *report;
        let labels = WorkLabels { model: model.to_owned(), task: outline.task.name() };
        self.queue_seconds.get_or_create(&labels).observe(queued.as_secs_f64());
        self.work_seconds.get_or_create(&labels).observe(worked.as_secs_f64());
        if let (Some(forecast), Some(memory)) = (forecast, memory) {
            // Both are what the engine takes, so that they can be compared.
            self.predicted_memory.get_or_create(&labels).observe(forecast.engine_memory as f64);
            self.work_memory.get_or_create(&labels).observe(memory as f64);
        }
        self.pixels.get_or_create(&labels).inc_by(outline.pixels as u64);
    }

    /// Everything as OpenMetrics text, as it is now.
    pub(crate) fn text(&self, app: &App) -> String {
        let service = app.service();
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.queue_length.set(gauge(service.waiting()));
        self.in_flight.set(gauge(app.in_flight()));
        let [done, frames] = service.running().unwrap_or_default();
        self.running_frames.set(gauge(frames));
        self.running_frames_done.set(gauge(done));
        self.ready.set(i64::from(app.ready().is_ok()));
        self.models_loaded.set(gauge(service.loaded()));
        self.resident.set(gauge(memory::resident().unwrap_or(0)));
        self.peak.set(gauge(memory::peak().unwrap_or(0)));
        self.own.set(gauge(memory::anonymous().unwrap_or(0)));
        self.bodies.set(gauge(service.held(Pool::Requests)));
        self.work_held.set(gauge(service.held(Pool::Work)));
        self.answers.set(gauge(service.held(Pool::Answers)));
        self.memory_limit.set(gauge(service.memory_limit().unwrap_or(0)));
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
