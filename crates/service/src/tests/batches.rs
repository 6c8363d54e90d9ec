//! Jobs that run together.

use vae::device::cpu::{Cpu, CpuOptions};
use vae::{DecodeOptions, HostTensor, Silent, Source};

use super::fake::{self, FAIL, PANIC};
use super::{end, job, job_of, open, run, until, values};
use crate::{Config, FailureKind};

fn batching() -> Config {
    Config { batch_requests: true, ..Config::default() }
}

#[tokio::test]
async fn jobs_run_alone_unless_their_answers_may_differ_by_rounding() {
    let (model, handle) = fake::model("fake");
    let service = open(Config::default(), vec![model]).await;
    handle.hold();
    let mut jobs = Vec::new();
    for client in 0..4 {
        jobs.push(service.submit(job(&service, client, client as f32)).await.unwrap());
    }
    handle.let_go();
    for events in jobs {
        end(events).await.unwrap();
    }
    assert_eq!(handle.batches(), [1; 4]);
}

#[tokio::test]
async fn each_job_of_a_batch_gets_its_own_part() {
    let (model, handle) = fake::model("fake");
    let service = open(batching(), vec![model]).await;
    handle.hold();
    let lone = service.submit(job(&service, 0, -1.0)).await.unwrap();
    until(|| handle.started() == 1).await;
    let mut jobs = Vec::new();
    for client in 1..=5 {
        jobs.push(service.submit(job(&service, client, client as f32)).await.unwrap());
    }
    // A request of two, and another shape, which runs alone.
    let two = job_of(&service, 6, &[2, 4, 1, 1], &[6.0, 6.0, 6.0, 6.0, 7.0, 7.0, 7.0, 7.0]);
    let two = service.submit(two).await.unwrap();
    let other = service.submit(job_of(&service, 7, &[1, 4, 1, 2], &[8.0; 8])).await.unwrap();
    handle.let_go();
    assert_eq!(values(&end(lone).await.unwrap()), [-1.0; 12]);
    for (client, events) in (1..=5).zip(jobs) {
        assert_eq!(values(&end(events).await.unwrap()), [client as f32; 12]);
    }
    let two = end(two).await.unwrap();
    assert_eq!(two.tensor.as_ref().unwrap().shape, [2, 3, 2, 2]);
    assert_eq!(values(&two), [[6.0; 12], [7.0; 12]].concat());
    assert_eq!(values(&end(other).await.unwrap()), [8.0; 24]);
    assert_eq!(handle.batches(), [1, 7, 1]);
}

#[tokio::test]
async fn what_is_wrong_with_one_harms_no_other() {
    let (model, handle) = fake::model("fake");
    let service = open(batching(), vec![model]).await;
    for bad in [FAIL, PANIC] {
        handle.hold();
        let started = handle.started();
        let lone = service.submit(job(&service, 0, -1.0)).await.unwrap();
        until(|| handle.started() == started + 1).await;
        let mut jobs = Vec::new();
        for (client, value) in [(1, 1.0), (2, bad), (3, 3.0)] {
            jobs.push((value, service.submit(job(&service, client, value)).await.unwrap()));
        }
        handle.let_go();
        end(lone).await.unwrap();
        for (value, events) in jobs {
            match end(events).await {
                Ok(answer) => assert_eq!(values(&answer), [value; 12]),
                Err(failure) => {
                    let kind = if bad == FAIL { FailureKind::Unprocessable } else { FailureKind::Internal };
                    assert_eq!((value, failure.kind), (bad, kind));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_batch_ends_early_only_when_all_have_left() {
    let (model, handle) = fake::model("fake");
    let service = open(batching(), vec![model]).await;
    for all in [false, true] {
        handle.hold();
        let (started, finished) = (handle.started(), handle.finished());
        let lone = service.submit(job(&service, 0, -1.0)).await.unwrap();
        until(|| handle.started() == started + 1).await;
        let mut jobs = Vec::new();
        for client in 1..=3 {
            jobs.push(service.submit(job(&service, client, client as f32)).await.unwrap());
        }
        drop(lone);
        until(|| handle.started() == started + 2).await;
        let staying = jobs.pop().unwrap();
        drop(jobs);
        if all {
            drop(staying);
            until(|| service.is_idle()).await;
            assert_eq!(handle.finished(), finished, "nothing but the cancellation can end it");
        } else {
            handle.let_go();
            assert_eq!(values(&end(staying).await.unwrap()), [3.0; 12]);
        }
    }
}

/// Kernels choose their algorithm by the whole batch, so its values differ by rounding: far less than what eight bits show.
#[test]
fn a_model_decodes_a_batch_to_what_it_decodes_each_item_to() {
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo-vae");
    let engine = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
    let mut vae = vae::load(Source::Folder(assets), engine).unwrap();
    for side in [7, 16] {
        let shape = |batch| vec![batch, 16, side, side];
        let length = 16 * side * side;
        let all: Vec<f32> = (0..3 * length).map(|i| ((i * 7919) % 1000) as f32 / 250.0 - 2.0).collect();
        let mut decode = |batch, data: &[f32]| {
            let latents = HostTensor::new(shape(batch), data.to_vec());
            vae.decode(latents, &DecodeOptions::default(), &mut Silent).unwrap().data
        };
        let together = decode(3, &all);
        let alone: Vec<f32> = all.chunks(length).flat_map(|item| decode(1, item)).collect();
        let most = together.iter().zip(&alone).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(most < 1e-3, "{side}: {most}");
    }
}

#[tokio::test]
async fn a_lone_job_runs_alone_and_at_once() {
    let (model, handle) = fake::model("fake");
    let service = open(batching(), vec![model]).await;
    for value in [1.0, 2.0] {
        assert_eq!(values(&run(&service, job(&service, 1, value)).await.unwrap()), [value; 12]);
    }
    assert_eq!(handle.batches(), [1, 1]);
}
