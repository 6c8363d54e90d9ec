//! The memory limit: what a request may take depends on the request and the settings, never on what others sent or hold.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use vae::device::cpu::{Cpu, CpuOptions};
use vae::{DecodeOptions, Source};
use wire::Limits;

use super::fake::{from, info, model};
use super::live::{Live, large_answer, until};
use crate::app::App;
use crate::{Config, Model, OnLarge};

const MIB: usize = 1 << 20;

/// Latents of 256 x 256 pixels.
const SHAPE: [usize; 4] = [1, 16, 32, 32];

/// The demonstration model, which can tell what work will take.
fn demo() -> Box<dyn vae::Vae> {
    let source = Source::Embedded {
        config: include_str!("../../../../assets/demo-vae/config.json"),
        weights: include_bytes!("../../../../assets/demo-vae/diffusion_pytorch_model.safetensors"),
    };
    let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
    vae::load(source, Cpu::new(options).unwrap()).unwrap()
}

fn demo_model() -> Model {
    from("demo", "a test", Box::new(|_| Ok(demo())))
}

/// A limit into which an exact decode of [`SHAPE`] just fits.
fn tight() -> Config {
    let forecast = demo().forecaster().unwrap().decode(&SHAPE, &DecodeOptions::default()).unwrap();
    let limits = Limits { max_body_bytes: 8 * MIB, ..Limits::default() };
    let config = Config {
        service: service::Config {
            limits,
            idle_release: Duration::from_millis(20),
            ..service::Config::default()
        },
        ..Config::default()
    };
    (1..)
        .map(|mib| Config {
            service: service::Config { memory_limit: Some(mib * MIB), ..config.service.clone() },
            ..config.clone()
        })
        .find(|config| config.service.work_memory().unwrap() >= forecast.memory())
        .unwrap()
}

async fn decode(live: &Live) -> String {
    let length: usize = SHAPE.iter().product();
    let head = format!(
        "POST /?dtype=uint8&shape={SHAPE:?}&output_type=pt HTTP/1.1\r\nHost: test\r\nContent-Type: tensor/binary\r\n\
         Content-Length: {length}\r\n\r\n"
    )
    .replace(", ", ",");
    let answer = live.ask(&(head + &"0".repeat(length))).await;
    let status = answer.lines().next().unwrap_or_default().to_owned();
    let mode = answer.lines().find(|line| line.starts_with("x-decode-mode: ")).unwrap_or_default();
    format!("{status}, {mode}")
}

/// Sends a request that never ends: `length` bytes of a body of one more, or of headers.
async fn unfinished(live: &Live, head: &str, length: usize) -> TcpStream {
    let mut stream = live.connect(head).await;
    // Refused or not, it sends what it can.
    let _ = stream.write_all(&vec![b'x'; length]).await;
    stream
}

#[tokio::test]
async fn what_others_held_while_the_server_rested_changes_nothing() {
    let mut live = Live::open(tight(), vec![demo_model()]).await;
    live.until_ready().await;
    assert_eq!(decode(&live).await, "HTTP/1.1 200 OK, x-decode-mode: exact");

    let body = |kind: &str| {
        format!("POST / HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", 5 * MIB + 1)
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(unfinished(&live, &body("image/png"), 5 * MIB).await);
        held.push(unfinished(&live, &body("application/json"), 5 * MIB).await);
    }
    for _ in 0..50 {
        held.push(unfinished(&live, "GET / HTTP/1.1\r\nX-Long: ", 100 << 10).await);
    }
    let figure = async |name: &str| {
        let figures = live.ask("GET /metrics HTTP/1.1\r\n\r\n").await;
        let value = figures.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        value.unwrap_or_else(|| panic!("no {name} in {figures}")).trim().parse::<usize>().unwrap()
    };
    until(async || figure("remote_vae_bodies_memory_bytes").await >= 5 * MIB).await;
    assert!(figure("remote_vae_own_memory_bytes").await > 10 * MIB);
    // The server rests several times meanwhile, and is asked meanwhile.
    for _ in 0..3 {
        sleep(Duration::from_millis(60)).await;
        assert_eq!(decode(&live).await, "HTTP/1.1 200 OK, x-decode-mode: exact");
    }
    drop(held);
    until(async || figure("remote_vae_bodies_memory_bytes").await == 0).await;
    assert_eq!(decode(&live).await, "HTTP/1.1 200 OK, x-decode-mode: exact");
    live.stop();
    live.end().await.unwrap();
}

#[tokio::test]
async fn a_body_that_all_together_may_not_have_is_refused() {
    let config = Config {
        service: service::Config { memory_limit: Some(24 * MIB), ..service::Config::default() },
        ..Config::default()
    };
    let mut live = Live::open(config, vec![model("fake", info()).0]).await;
    live.until_ready().await;
    let head = format!("POST / HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n", 7 * MIB);
    let answer = live.ask(&(head + &"x".repeat(7 * MIB))).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("have 6291456, of 24 MiB in all (--memory-limit)"), "{answer}");
    live.stop();
    live.end().await.unwrap();
}

/// The settings with the smallest limit that leaves so many bytes for work.
fn leaving(work: usize) -> Config {
    let config = Config::default();
    let with = |limit| Config {
        service: service::Config { memory_limit: Some(limit), ..config.service.clone() },
        ..config.clone()
    };
    (16 * MIB..).step_by(1 << 10).map(with).find(|with| with.service.work_memory().unwrap() >= work).unwrap()
}

#[tokio::test]
async fn a_limit_in_which_a_model_cannot_run_at_all_is_refused_at_its_load() {
    let smallest = DecodeOptions { lean: true, ..DecodeOptions::default() };
    let needed = demo().forecaster().unwrap().decode(&[1, 16, 2, 2], &smallest).unwrap().memory();
    let mut live = Live::open(leaving(needed), vec![demo_model()]).await;
    live.until_ready().await;
    live.stop();
    live.end().await.unwrap();

    let small = leaving(needed / 2);
    let error = Live::open(small.clone(), vec![demo_model()]).await.end().await.unwrap_err().to_string();
    assert!(error.contains("even 16 x 16 pixels take") && error.contains("--memory-limit"), "{error}");
    let tried = Config {
        service: service::Config { on_large: OnLarge::Exact, ..small.service.clone() },
        ..small.clone()
    };
    Live::open(tried, vec![demo_model()]).await.until_ready().await;
    let lazy = Live::open(
        Config { service: service::Config { lazy: true, ..small.service.clone() }, ..small },
        vec![demo_model()],
    )
    .await;
    lazy.until_ready().await;
    assert!(decode(&lazy).await.starts_with("HTTP/1.1 503"), "it is loaded, and refused, at its first use");
}

#[test]
fn a_limit_that_leaves_nothing_for_work_is_refused_at_the_start() {
    for lazy in [false, true] {
        let config = Config {
            service: service::Config { memory_limit: Some(8), lazy, ..service::Config::default() },
            ..Config::default()
        };
        let error = App::new(&config, vec![model("fake", info()).0]).map(drop).unwrap_err().to_string();
        assert!(error.contains("--memory-limit 1 MiB leaves nothing for work"), "{error}");
        let tried = Config {
            service: service::Config { on_large: OnLarge::Exact, ..config.service.clone() },
            ..config
        };
        assert!(App::new(&tried, vec![model("fake", info()).0]).is_ok());
    }
}

#[tokio::test]
async fn an_answer_counts_until_its_client_has_read_it_or_left() {
    let (mut live, handle) = Live::ready(Config::default()).await;
    let figure = async || {
        let figures = live.ask("GET /metrics HTTP/1.1\r\n\r\n").await;
        let value = figures.lines().find_map(|line| line.strip_prefix("remote_vae_answers_memory_bytes "));
        value.unwrap_or_else(|| panic!("{figures}")).parse::<usize>().unwrap()
    };
    // 1024 x 1024 values of 3 channels and 4 bytes.
    let size = 3 * 1024 * 1024 * 4;
    for reads in [true, false] {
        let stream = live.connect(&large_answer()).await;
        until(async || figure().await == size).await;
        if reads {
            let mut stream = stream;
            let mut left = size;
            let mut part = vec![0; 1 << 20];
            while left > 0 {
                let length = tokio::io::AsyncReadExt::read(&mut stream, &mut part).await.unwrap();
                assert!(length > 0);
                left = left.saturating_sub(length);
            }
        } else {
            drop(stream);
        }
        until(async || figure().await == 0).await;
    }
    assert_eq!(handle.finished(), 2);
    live.stop();
    live.end().await.unwrap();
}
