//! The service as its fronts see it, with a model that is easy to predict.

mod batches;
mod fake;
mod loads;
mod memory;

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::Span;
use wire::{DType, DecodeRequest, Params, Request, RequestHead, Tensor, Transfer, Values};

use crate::{Answer, Client, Config, Event, Events, Failure, FailureKind, Job, Model, Service, Spans};

/// Nothing here takes long; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service that can take work.
async fn open(config: Config, models: Vec<Model>) -> Service {
    let service = Service::new(config, models).unwrap();
    drop(service.start().unwrap());
    timeout(PATIENCE, service.until_ready()).await.expect("it does not start");
    service
}

/// Waits until something is true.
async fn until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it never came true");
}

/// A decode of one latent of this value by the first model.
fn job(service: &Service, client: u64, value: f32) -> Job {
    job_of(service, client, &[1, 4, 1, 1], &[value; 4])
}

fn job_of(service: &Service, client: u64, shape: &[usize], values: &[f32]) -> Job {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let latents = Tensor::new(DType::Float32, shape.to_vec(), bytes.into()).unwrap();
    let answer =
        wire::Answer::Tensor { values: Values::Raw, dtype: DType::Float32, transfer: Transfer::Binary };
    let mut held = service.request_memory();
    held.grow(latents.bytes.len()).unwrap();
    Job {
        latents_of: None,
        model: 0,
        head: RequestHead::read("shape=[1,4,1,1]&dtype=float32", Some("tensor/binary"), None).unwrap(),
        request: Request::Decode(DecodeRequest { latents, params: Params::new(answer) }),
        client: Client::Key(client),
        deadline: None,
        held,
        spans: Spans::within(Span::none()),
    }
}

/// The end of a job.
async fn end(mut events: Events) -> Result<Answer, Failure> {
    let ending = async {
        loop {
            match events.next().await {
                Event::Done(answer) => return Ok(*answer),
                Event::Failed(failure) => return Err(failure),
                Event::Queued { .. } | Event::Started | Event::Progress { .. } => {}
            }
        }
    };
    timeout(PATIENCE, ending).await.expect("it does not end")
}

async fn run(service: &Service, job: Job) -> Result<Answer, Failure> {
    end(timeout(PATIENCE, service.submit(job)).await.expect("it is not taken")?).await
}

/// The values of an answer.
fn values(answer: &Answer) -> Vec<f32> {
    answer.body.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

#[tokio::test]
async fn a_job_is_told_of_from_its_place_to_its_answer() {
    let (model, handle) = fake::model("fake");
    let service = open(Config::default(), vec![model]).await;
    handle.hold();
    let mut first = service.submit(job(&service, 1, 0.5)).await.unwrap();
    assert!(matches!(first.next().await, Event::Queued { ahead: 0, .. }));
    assert!(matches!(first.next().await, Event::Started));
    assert!(matches!(first.next().await, Event::Progress { done: 1, total: 2 }));
    let mut second = service.submit(job(&service, 1, 0.25)).await.unwrap();
    assert!(matches!(second.next().await, Event::Queued { ahead: 0, .. }));
    let mut third = service.submit(job(&service, 1, 0.25)).await.unwrap();
    assert!(matches!(third.next().await, Event::Queued { ahead: 1, .. }));
    handle.let_go();
    assert_eq!(values(&end(first).await.unwrap()), [0.5; 12]);
    assert_eq!(values(&end(second).await.unwrap()), [0.25; 12]);
    assert_eq!(values(&end(third).await.unwrap()), [0.25; 12]);
    until(|| service.is_idle()).await;
}

#[tokio::test]
async fn work_ends_at_its_deadline_whoever_still_waits() {
    let (model, handle) = fake::model("fake");
    let service = open(Config::default(), vec![model]).await;
    handle.hold();
    // One moment for both: the second job must not get its turn when the first one's time is over.
    let deadline = Some(Instant::now() + Duration::from_millis(200));
    let running = service.submit(Job { deadline, ..job(&service, 1, 0.5) }).await.unwrap();
    let waiting = service.submit(Job { deadline, ..job(&service, 2, 0.5) }).await.unwrap();
    for events in [running, waiting] {
        assert_eq!(end(events).await.unwrap_err().kind, FailureKind::Deadline);
    }
    until(|| service.is_idle()).await;
    assert_eq!((handle.started(), handle.finished()), (1, 0));
}

#[tokio::test]
async fn whose_turn_would_come_too_late_is_told_when_it_would() {
    let (model, handle) = fake::model("fake");
    let service = open(Config::default(), vec![model]).await;
    handle.take(Duration::from_millis(200));
    run(&service, job(&service, 1, 0.5)).await.unwrap();
    handle.hold();
    let mut others = Vec::new();
    for number in 0..20 {
        // Of other shapes, so that they do not run together.
        let job =
            job_of(&service, number, &[1, 4, 1, 2 + number as usize], &vec![0.5; 8 + 4 * number as usize]);
        others.push(service.submit(job).await.unwrap());
    }
    let soon = Some(Instant::now() + Duration::from_secs(1));
    let failure =
        service.submit(Job { deadline: soon, ..job(&service, 30, 0.5) }).await.map(drop).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Busy, "{failure:?}");
    assert!(failure.message.contains("x-request-timeout"), "{}", failure.message);
    assert!(failure.retry_after.unwrap() > Duration::from_secs(1), "{failure:?}");
    let later = Some(Instant::now() + PATIENCE * 100);
    drop(service.submit(Job { deadline: later, ..job(&service, 30, 0.5) }).await.unwrap());
    drop(others);
    until(|| service.is_idle()).await;
}

#[tokio::test]
async fn what_runs_is_cut_off_by_a_stop() {
    let (model, handle) = fake::model("fake");
    let service = open(Config::default(), vec![model]).await;
    handle.hold();
    let running = service.submit(job(&service, 1, 0.5)).await.unwrap();
    until(|| handle.started() == 1).await;
    service.stop();
    assert_eq!(end(running).await.unwrap_err().kind, FailureKind::ShuttingDown);
    until(|| service.is_idle()).await;
    assert_eq!(handle.finished(), 0);
}

#[tokio::test]
async fn each_worker_has_its_own_instance() {
    let (model, handle) = fake::model("fake");
    let service = open(Config { workers: 2.try_into().unwrap(), ..Config::default() }, vec![model]).await;
    assert_eq!(handle.loads(), 2);
    handle.hold();
    let mut jobs = Vec::new();
    for client in 0..3 {
        jobs.push(service.submit(job(&service, client, client as f32)).await.unwrap());
        until(|| handle.started() == jobs.len().min(2)).await;
    }
    // Two run, and the third waits.
    assert_eq!(service.waiting(), 1);
    handle.let_go();
    for (client, events) in jobs.into_iter().enumerate() {
        assert_eq!(values(&end(events).await.unwrap()), [client as f32; 12]);
    }
}
