//! Generate and decode at the same time: while the server decodes the latents of one picture, those of the next are
//! made.
//!
//! ```text
//! cargo run -p remote-vae-client --example decode_queue -- http://127.0.0.1:8080/ pictures/
//! ```

use std::path::Path;
use std::{fs, thread};

use client::blocking::DecodeQueue;
use client::{DType, DecodeOptions, Error, QueueOptions, RemoteVae, Tensor};

/// Six pictures into a folder.
pub(crate) fn six_pictures(endpoint: &str, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (queue, pictures) = DecodeQueue::new(RemoteVae::new(endpoint)?, QueueOptions::new().in_flight(2))?;
    let pipeline = thread::spawn(move || -> Result<(), Error> {
        for number in 0..6 {
            queue.submit(number, generate(number)?, DecodeOptions::new())?; // comes back at once
        }
        Ok(()) // the queue is dropped: no more will come
    });
    for picture in pictures {
        fs::write(folder.join(format!("{}.jpg", picture.tag)), picture.result?.into_image()?.bytes)?;
        println!("decoded {} in {:.2} s", picture.tag, picture.time.as_secs_f64());
    }
    pipeline.join().map_err(|_| "the pipeline panicked")??;
    Ok(())
}

/// Stands in for a pipeline: latents `[1, 16, 32, 32]` of the embedded demonstration model, one grey each.
fn generate(number: u8) -> Result<Tensor, Error> {
    let value = 0x3800_u16 + 256 * u16::from(number); // a float16 from 0.5 up
    let bytes: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), 16 * 32 * 32).flatten().collect();
    Tensor::new(DType::Float16, vec![1, 16, 32, 32], bytes.into())
        .map_err(|error| Error::Options(error.to_string()))
}

#[allow(dead_code, reason = "a test takes this file as a module")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8080/".to_owned());
    let folder = arguments.next().unwrap_or_else(|| "pictures".to_owned());
    fs::create_dir_all(&folder)?;
    six_pictures(&endpoint, Path::new(&folder))
}
