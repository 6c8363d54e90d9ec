// For the examples in the documentation: a server of this project with the demonstration model, on a free port until
// the example ends, and something to send it. They include it with lines that the documentation does not show.

use std::path::{Path, PathBuf};

/// Starts the server and gives its URL, once it is ready.
fn demo_server() -> String {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let model = server::Model {
        preview: None,
        name: "demo".to_owned(),
        source: "demo".to_owned(),
        origin: None,
        license: None,
        example: None,
        weights: Box::new(|| None),
        load: Box::new(move |_| {
            let device = vae::device::cpu::Cpu::new(vae::device::cpu::CpuOptions::default())?;
            Ok(vae::load(vae::Source::Folder(assets.join("demo-vae")), device)?)
        }),
    };
    let (address, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let config = server::Config { port: 0, ..server::Config::default() };
            let server = server::Server::bind(config, vec![model]).await.unwrap();
            address.send(server.local_addr()).unwrap();
            server.run(std::future::pending()).await.unwrap();
        });
    });
    let endpoint = format!("http://{}/", bound.recv().unwrap());
    let vae = client::blocking::RemoteVae::new(&endpoint).unwrap();
    while !vae.is_ready().unwrap() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    endpoint
}

/// Latents `[1, 16, 3, 4]`, as float16: those of a grey.
#[allow(dead_code, reason = "not every example needs them")]
fn grey() -> Vec<u8> {
    std::iter::repeat_n(0x3800_u16.to_le_bytes(), 16 * 3 * 4).flatten().collect()
}

/// Stands in for a pipeline.
#[allow(dead_code, reason = "not every example needs it")]
async fn generate(_prompt: &str) -> client::Tensor {
    client::Tensor::new(client::DType::Float16, vec![1, 16, 3, 4], grey().into()).unwrap()
}

/// Two photographs.
#[allow(dead_code, reason = "not every example needs them")]
fn photographs() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/jpeg");
    ["photo.72x53.q75.jpg", "photo.72x53.q95.jpg"].map(|name| fixtures.join(name)).to_vec()
}
