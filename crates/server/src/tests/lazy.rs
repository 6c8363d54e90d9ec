//! Models that are loaded when they are asked for, and put away again.

use std::sync::atomic::{AtomicBool, Ordering};

use super::fake::{from, info, model};
use super::{Reply, TestServer};
use crate::Config;

const PT: &str = "tensor/binary";
const GIB: usize = 1 << 30;

fn lazy() -> Config {
    Config { service: service::Config { lazy: true, ..service::Config::default() }, ..Config::default() }
}

async fn decode(server: &TestServer, name: &str) -> Reply {
    server.post(&format!("/{name}?dtype=uint8&shape=[1,4,1,1]&output_type=pt"), PT, "1234").await
}

#[tokio::test]
async fn a_model_is_loaded_at_its_first_use() {
    let ((one, first), (two, second)) = (model("one", info()), model("two", info()));
    let server = TestServer::open(lazy(), vec![one, two]).await;
    assert_eq!(server.get("/ready").await.status, 200, "it takes work");
    assert_eq!((first.loads(), second.loads()), (0, 0));
    let models = server.get("/models").await;
    assert_eq!(
        models.body,
        r#"{"models":[{"name":"one","default":true,"has_example":false},{"name":"two","default":false,"has_example":false}]}"#
    );

    for _ in 0..2 {
        decode(&server, "two").await.content(PT);
        assert_eq!((first.loads(), second.loads()), (0, 1));
    }
    let models = server.get("/models").await;
    let text = String::from_utf8(models.body.to_vec()).unwrap();
    assert_eq!(text.matches("class_name").count(), 1, "{text}");
    let figures = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(figures.contains("\nremote_vae_models_loaded 1\n"), "{figures}");
}

#[tokio::test]
async fn the_model_that_was_not_used_for_longest_makes_room() {
    // Two of them fit, three do not; the process itself is far smaller than what is left.
    let config =
        Config { service: service::Config { memory_limit: Some(4 * GIB), ..lazy().service }, ..lazy() };
    let (models, handles): (Vec<_>, Vec<_>) =
        ["a", "b", "c"].map(|name| model(name, info())).into_iter().unzip();
    handles.iter().for_each(|handle| handle.set_weights(3 * GIB / 2));
    let server = TestServer::open(config, models).await;
    let loads = || handles.iter().map(|handle| handle.loads()).collect::<Vec<_>>();
    for (name, expected) in [
        ("a", [1, 0, 0]),
        ("b", [1, 1, 0]),
        ("a", [1, 1, 0]),
        ("c", [1, 1, 1]),
        ("a", [1, 1, 1]),
        ("b", [1, 2, 1]),
    ] {
        decode(&server, name).await.content(PT);
        assert_eq!(loads(), expected, "after {name}");
    }
    assert_eq!(server.app.service().loaded(), 2);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_tried_again() {
    static THERE: AtomicBool = AtomicBool::new(false);
    let (good, _) = model("late", info());
    let load = move |_| {
        if THERE.load(Ordering::SeqCst) { (good.load)(0) } else { Err("/secret/path is not there".into()) }
    };
    let (other, _) = model("other", info());
    let server = TestServer::open(lazy(), vec![from("late", "a test", Box::new(load)), other]).await;
    let message = decode(&server, "late").await.error(503);
    assert!(message.contains("log") && !message.contains("secret"), "{message}");
    decode(&server, "other").await.content(PT);
    THERE.store(true, Ordering::SeqCst);
    decode(&server, "late").await.content(PT);
}
