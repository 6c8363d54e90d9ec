//! What jobs hold, from their bodies to the last byte of their answers.

use std::time::Duration;

use vae::device::cpu::{Cpu, CpuOptions};
use vae::{DecodeOptions, Source, Vae};
use wire::{EncodeParams, EncodeRequest, Limits, Picture, Request};

use super::fake::{self, from};
use super::{end, job, job_of, open, run, until};
use crate::{Config, Event, FailureKind, Job, Model, Pool};

const MIB: usize = 1 << 20;

fn demo() -> Box<dyn Vae> {
    // Nothing of it is copied into memory.
    let source = Source::Embedded {
        config: include_str!("../../../../assets/demo-vae/config.json"),
        weights: include_bytes!("../../../../assets/demo-vae/diffusion_pytorch_model.safetensors"),
    };
    let engine = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    vae::load(source, engine).unwrap()
}

fn demo_model() -> Model {
    from("demo", Box::new(|_| Ok(demo())))
}

/// Latents of 256 x 256 pixels.
const SHAPE: [usize; 4] = [1, 16, 32, 32];

/// A limit into which an exact decode of [`SHAPE`] just fits.
fn tight() -> Config {
    let forecast = demo().forecaster().unwrap().decode(&SHAPE, &DecodeOptions::default()).unwrap();
    let limits = Limits { max_body_bytes: 8 * MIB, ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    (1..)
        .map(|mib| Config { memory_limit: Some(mib * MIB), ..config.clone() })
        .find(|config| config.work_memory().unwrap() >= forecast.memory())
        .unwrap()
}

#[tokio::test]
async fn an_answer_that_is_not_read_holds_up_work_that_needs_its_memory() {
    let config = tight();
    let room = config.work_memory().unwrap();
    let service = open(config, vec![demo_model()]).await;
    let decode = |client| job_of(&service, client, &SHAPE, &vec![0.5; SHAPE.iter().product()]);
    let mut unread = Vec::new();
    // Requests hold hardly anything, so that their part is there for answers too.
    let bodies = 2 * service.max_bodies();
    let size = 3 * 256 * 256 * 4;
    for client in 0..bodies / size {
        let answered = tokio::time::timeout(Duration::from_secs(10), run(&service, decode(client as u64)));
        match answered.await {
            Ok(answer) => unread.push(answer.unwrap()),
            Err(_) => break,
        }
    }
    let held = service.held(Pool::Answers);
    assert_eq!(held, unread.len() * size);
    assert!(held <= service.max_bodies() + 2 * MIB, "{held} of {room}");
    assert!(held > service.max_bodies() / 2, "{held}: it was held up too early");
    // Now one waits, and is done once the others are read.
    let mut waiting = service.submit(decode(99)).await.unwrap();
    assert!(matches!(waiting.next().await, Event::Queued { .. }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    unread.clear();
    end(waiting).await.unwrap();
    until(|| service.held(Pool::Answers) == 0).await;
}

#[tokio::test]
async fn who_leaves_while_its_work_waits_for_memory_frees_the_worker() {
    let service = open(tight(), vec![demo_model()]).await;
    let decode = |client| job_of(&service, client, &SHAPE, &vec![0.5; SHAPE.iter().product()]);
    let (first, second) = (decode(1), decode(2));
    let mut answers = service.unread_answers();
    answers.set(usize::MAX / 4);
    let waiting = service.submit(first).await.unwrap();
    until(|| service.running().is_some()).await;
    drop(waiting);
    until(|| service.is_idle()).await;
    drop(answers);
    run(&service, second).await.unwrap();
}

#[tokio::test]
async fn a_damaged_picture_is_refused_before_the_queue() {
    let (model, handle) = fake::model("fake");
    let service = open(Config::default(), vec![model]).await;
    handle.hold();
    let running = service.submit(job(&service, 1, 0.5)).await.unwrap();
    until(|| handle.started() == 1).await;
    let whole = media::encode_png(&vec![7; 64 * 64 * 3], 64, 64).unwrap();
    let encode = |file: &[u8]| Job {
        request: Request::Encode(EncodeRequest {
            picture: Picture::File(file.to_vec().into()),
            params: EncodeParams::default(),
        }),
        ..job(&service, 2, 0.5)
    };
    let damaged = service.submit(encode(&whole[..whole.len() - 30])).await.map(drop).unwrap_err();
    assert_eq!(damaged.kind, FailureKind::Unprocessable, "{damaged:?}");
    assert_eq!(service.waiting(), 0);
    let waiting = service.submit(encode(&whole)).await.unwrap();
    // The pixels are there before its turn.
    assert!(service.held(Pool::Requests) >= 3 * 64 * 64 * 4);
    handle.let_go();
    end(running).await.unwrap();
    assert_eq!(end(waiting).await.unwrap().tensor.unwrap().shape, [1, 4, 32, 32]);
    until(|| service.held(Pool::Requests) == 0).await;
}

#[tokio::test]
async fn what_does_not_fit_beside_other_requests_is_read_when_it_is_its_turn() {
    let (model, handle) = fake::model("fake");
    let limits = Limits { max_body_bytes: 64 << 10, ..Limits::default() };
    let config = Config { limits, max_pending_bytes: 0, ..Config::default() };
    let service = open(config, vec![model]).await;
    handle.hold();
    let running = service.submit(job(&service, 1, 0.5)).await.unwrap();
    until(|| handle.started() == 1).await;
    let picture = media::encode_png(&vec![7; 512 * 512 * 3], 512, 512).unwrap();
    let mut held = service.request_memory();
    held.grow(picture.len()).unwrap();
    let job = Job {
        request: Request::Encode(EncodeRequest {
            picture: Picture::File(picture.into()),
            params: EncodeParams::default(),
        }),
        held,
        ..job(&service, 2, 0.5)
    };
    let waiting = service.submit(job).await.unwrap();
    assert!(service.held(Pool::Requests) <= service.max_bodies());
    handle.let_go();
    end(running).await.unwrap();
    assert_eq!(end(waiting).await.unwrap().tensor.unwrap().shape, [1, 4, 256, 256]);
}

#[tokio::test]
async fn a_request_counts_as_long_as_it_is_read_whether_anybody_waits_or_not() {
    let service = open(Config::default(), vec![fake::model("fake").0]).await;
    let mut held = service.request_memory();
    held.grow(MIB).unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let read = service.read(move || {
        let _ = begun.send(());
        let _ = wait.recv();
        drop(held);
        Ok(())
    });
    let mut read = Box::pin(read);
    tokio::select! {
        _ = &mut read => panic!("it cannot end yet"),
        begun = has_begun => begun.unwrap(),
    }
    drop(read);
    assert_eq!(service.held(Pool::Requests), MIB);
    drop(go);
    until(|| service.held(Pool::Requests) == 0).await;
}
