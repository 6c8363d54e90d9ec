//! A server on a real port, and what it says.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::fake::{Handle, info, model};
use crate::{Config, Model, Reload, ServeError, Server};

pub(super) const DECODE: &str = "POST /?dtype=uint8&shape=[1,4,1,1]&output_type=pt HTTP/1.1\r\nHost: test\r\n\
                      Content-Type: tensor/binary\r\nContent-Length: 4\r\n\r\n1234";

/// A server on a port.
pub(super) struct Live {
    pub(super) address: SocketAddr,
    pub(super) admin: Option<SocketAddr>,
    pub(super) reload: Reload,
    stop: Option<oneshot::Sender<()>>,
    pub(super) running: JoinHandle<Result<(), ServeError>>,
}

impl Live {
    pub(super) async fn open(config: Config, models: Vec<Model>) -> Self {
        let server = Server::bind(Config { port: 0, ..config }, models).await.unwrap();
        let (address, admin, reload) = (server.local_addr(), server.admin_addr(), server.reload());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        Self { address, admin, reload, stop: Some(stop), running }
    }

    /// A server with a loaded model.
    pub(super) async fn ready(config: Config) -> (Self, Handle) {
        let (model, handle) = model("fake", info());
        let live = Self::open(config, vec![model]).await;
        live.until_ready().await;
        (live, handle)
    }

    pub(super) async fn until_ready(&self) {
        until(async || self.ask("GET /ready HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200")).await;
    }

    pub(super) async fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Everything the server says to a request, after which it is asked to close the connection.
    pub(super) async fn ask(&self, request: &str) -> String {
        ask(self.address, request).await
    }

    pub(super) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(super) async fn end(self) -> Result<(), ServeError> {
        timeout(PATIENCE, self.running).await.expect("the server did not stop").unwrap()
    }
}

/// Everything that comes back from an address, after a request that asks to close the connection.
pub(super) async fn ask(address: SocketAddr, request: &str) -> String {
    let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who is refused at once may not come so far.
    let _ = stream.write_all(request.as_bytes()).await;
    everything(stream).await
}

pub(super) async fn everything(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A server that closes before it has read everything resets the connection, after its answer.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it never came true");
}

/// A request whose answer is larger than what sockets buffer.
pub(super) fn large_answer() -> String {
    let request = DECODE.replace("[1,4,1,1]", "[1,4,512,512]&out_dtype=float32");
    request.replace("Length: 4", "Length: 1048576").replace("1234", &"1".repeat(1 << 20))
}
