//! Models that are loaded at their first use.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use super::fake::{self, from};
use super::{end, job, open, run, until};
use crate::{Config, FailureKind, Job, Model, Service};

const GIB: usize = 1 << 30;

fn lazy() -> Config {
    Config { lazy: true, ..Config::default() }
}

/// A model whose load waits for a word, then succeeds or fails; and how often it was begun.
fn slow(name: &str, succeeds: bool) -> (Model, mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (go, wait) = mpsc::channel();
    let (wait, begun) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
    let (model, _) = fake::model(name);
    let count = Arc::clone(&begun);
    let load = move |worker| {
        count.fetch_add(1, Ordering::SeqCst);
        let _ = wait.lock().unwrap().recv();
        if succeeds { (model.load)(worker) } else { Err("it is not there".into()) }
    };
    (from(name, Box::new(load)), go, begun)
}

#[tokio::test]
async fn no_model_waits_for_the_load_of_another() {
    let (late, go, _) = slow("late", true);
    let (there, _) = fake::model("there");
    let service = open(lazy(), vec![late, there]).await;
    let mut waiting = Vec::new();
    for client in 0..100 {
        let service = service.clone();
        waiting.push(tokio::spawn(async move { run(&service, job(&service, client, 0.5)).await }));
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..5 {
        run(&service, Job { model: 1, ..job(&service, 1, 0.5) }).await.unwrap();
    }
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    drop(go);
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn one_load_for_all_and_one_error_for_all() {
    let (one, go_one, begun_one) = slow("one", false);
    let (other, go_other, begun_other) = slow("other", false);
    let service = open(lazy(), vec![one, other]).await;
    let mut waiting = Vec::new();
    for number in 0..40 {
        let service = service.clone();
        waiting.push(tokio::spawn(async move {
            run(&service, Job { model: number % 2, ..job(&service, number as u64, 0.5) }).await
        }));
    }
    // Both loads run at the same time.
    let begun = || (begun_one.load(Ordering::SeqCst), begun_other.load(Ordering::SeqCst));
    until(|| begun() == (1, 1)).await;
    // Whoever has not come so far would have it loaded anew.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop((go_one, go_other));
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap_err().kind, FailureKind::NotLoaded);
    }
    assert_eq!(begun(), (1, 1));
    // The next one tries again.
    assert_eq!(run(&service, job(&service, 1, 0.5)).await.unwrap_err().kind, FailureKind::NotLoaded);
    assert_eq!(begun(), (2, 1));
}

#[tokio::test]
async fn who_does_not_wait_for_a_load_frees_its_memory() {
    let (late, go, _) = slow("late", true);
    let service = open(lazy(), vec![late]).await;
    let submitted = tokio::time::timeout(Duration::from_millis(30), service.submit(job(&service, 1, 0.5)));
    assert!(submitted.await.is_err());
    assert_eq!(service.held(crate::Pool::Requests), 0);
    drop(go);
    run(&service, job(&service, 1, 0.5)).await.unwrap();
}

#[tokio::test]
async fn weights_count_before_their_load_begins() {
    // Two models fit, three do not.
    let (models, handles): (Vec<_>, Vec<_>) = ["a", "b", "c"].map(fake::model).into_iter().unzip();
    handles.iter().for_each(|handle| handle.set_weights(3 * GIB / 2));
    // What is in memory at the beginning of each load.
    let service: Arc<OnceLock<Service>> = Arc::default();
    let most = Arc::new(AtomicUsize::new(0));
    let models: Vec<_> = models
        .into_iter()
        .map(|model| {
            let (service, most) = (Arc::clone(&service), Arc::clone(&most));
            let Model { name, weights, load, .. } = model;
            let load = move |worker| {
                most.fetch_max(service.get().map_or(0, Service::loaded), Ordering::SeqCst);
                load(worker)
            };
            Model { weights, ..from(&name, Box::new(load)) }
        })
        .collect();
    let service = service
        .get_or_init(|| Service::new(Config { memory_limit: Some(4 * GIB), ..lazy() }, models).unwrap());
    drop(service.start().unwrap());
    for model in [0, 1, 2, 0, 1, 2] {
        run(service, Job { model, ..job(service, 1, 0.5) }).await.unwrap();
        until(|| service.is_idle()).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 1, "a third one was in memory during a load");
    assert_eq!(handles.iter().map(|handle| handle.loads()).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(service.loaded(), 2);
}

#[tokio::test]
async fn a_model_that_is_unloaded_lasts_as_long_as_jobs_need_it() {
    let (models, handles): (Vec<_>, Vec<_>) = ["a", "b"].map(fake::model).into_iter().unzip();
    handles.iter().for_each(|handle| handle.set_weights(2 * GIB));
    // One fits.
    let service = open(Config { memory_limit: Some(4 * GIB), ..lazy() }, models).await;
    // Loaded first, as the model decodes something while it is.
    run(&service, job(&service, 1, 0.5)).await.unwrap();
    handles[0].hold();
    let first = service.submit(job(&service, 1, 0.5)).await.unwrap();
    until(|| handles[0].started() == 2).await;
    let other = tokio::spawn({
        let service = service.clone();
        async move { run(&service, Job { model: 1, ..job(&service, 2, 0.25) }).await }
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        assert_eq!(handles[1].loads(), 0, "its memory is in use");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(service.loaded(), 0, "the other one takes no new jobs");
    handles[0].let_go();
    end(first).await.unwrap();
    other.await.unwrap().unwrap();
    assert_eq!(handles[1].loads(), 1);
}
