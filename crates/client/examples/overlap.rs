//! Measures what a queue is worth: a pipeline that takes as long for latents as the server for their decode.
//!
//! ```text
//! cargo run --release -p remote-vae-client --example overlap -- http://127.0.0.1:8080/
//! ```

use std::thread;
use std::time::Instant;

use client::blocking::{DecodeQueue, RemoteVae};
use client::{DType, DecodeOptions, QueueOptions, Tensor};

/// Latents of one run.
const COUNT: u32 = 24;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080/".to_owned());
    // A grey of 512 x 512 pixels, for the embedded demonstration model.
    let bytes: Vec<u8> = std::iter::repeat_n(0x3800_u16.to_le_bytes(), 16 * 64 * 64).flatten().collect();
    let latents = Tensor::new(DType::Float16, vec![1, 16, 64, 64], bytes.into())?;

    let vae = RemoteVae::new(&endpoint)?;
    vae.decode(&latents, &DecodeOptions::new())?;
    let start = Instant::now();
    for _ in 0..COUNT {
        vae.decode(&latents, &DecodeOptions::new())?;
    }
    let decoding = start.elapsed();
    println!("decoding {COUNT}, one after the other: {:.2} s", decoding.as_secs_f64());

    for in_flight in [1, 2] {
        let options = QueueOptions::new().in_flight(in_flight);
        let (queue, decodes) = DecodeQueue::new(client::RemoteVae::new(&endpoint)?, options)?;
        let latents = latents.clone();
        let start = Instant::now();
        let pipeline = thread::spawn(move || {
            for number in 0..COUNT {
                // Stands in for a graphics card, which leaves the processor to others.
                thread::sleep(decoding / COUNT);
                queue.submit(number, latents.clone(), DecodeOptions::new())?;
            }
            Ok::<_, client::Error>(start.elapsed())
        });
        for finished in decodes {
            finished.result?;
        }
        let total = start.elapsed();
        let generating = pipeline.join().map_err(|_| "the pipeline panicked")??;
        println!(
            "generating {:.2} s, both with {in_flight} in flight: {:.2} s, {:.3} of the longer of the two",
            generating.as_secs_f64(),
            total.as_secs_f64(),
            total.as_secs_f64() / decoding.max(generating).as_secs_f64()
        );
    }
    Ok(())
}
