//! Models over a device that is slow, late and gets lost, and what is checked before memory is taken.

mod bands;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::device::mock::{Fault, Mock, MockOptions};
use crate::device::reference::Reference;
use crate::{
    Cancelled, DecodeOptions, DeviceError, EncodeOptions, HostTensor, Observer, Silent, Source, Vae, VaeError,
};

/// A golden case's model on a device.
fn load(case: &str, device: impl Device + 'static) -> Box<dyn Vae> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vae").join(case);
    crate::load(Source::Folder(folder), device).unwrap()
}

fn mock(options: MockOptions) -> Mock {
    Mock::new(options)
}

fn values(shape: &[usize]) -> HostTensor {
    let count = shape.iter().product();
    let value = |i: usize| (i.wrapping_mul(2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
    HostTensor::new(shape.to_vec(), (0..count).map(value).collect())
}

fn decode(vae: &mut dyn Vae, shape: &[usize]) -> Result<HostTensor, VaeError> {
    vae.decode(values(shape), &DecodeOptions::default(), &mut Silent)
}

#[test]
fn what_is_too_large_is_refused_before_memory_is_taken() {
    // A device whose largest tensor is what the last up blocks put out for 15 latents: 8 channels of 8×8 pixels each, in f32.
    let device = mock(MockOptions { memory: 15 * 8 * 8 * 8 * 4, ..MockOptions::default() });
    let vae = load("sd-like", device.clone());
    let forecaster = vae.forecaster().unwrap();
    let forecast = |shape: [usize; 4]| forecaster.decode(&shape, &DecodeOptions::default());
    assert!(forecast([2, 4, 5, 3]).is_ok());
    for shape in
        [[1, 4, 4, 4], [1, 4, 1, 16], [1, 4, 1 << 32, 1 << 32], [1, 4, usize::MAX, 2], [usize::MAX, 4, 5, 4]]
    {
        let message = forecast(shape).unwrap_err().to_string();
        assert!(message.contains("too large"), "{message}");
    }
    let pixels = |height, width| forecaster.encode(&[1, 3, height, width], &EncodeOptions::default());
    assert!(pixels(8, 8).is_ok());
    // Pixels that make no whole latent count too.
    for (height, width) in [(8, 15 * 8 + 1), (1 << 40, 1 << 40), (usize::MAX, 8)] {
        let message = pixels(height, width).unwrap_err().to_string();
        assert!(message.contains("too large"), "{message}");
    }
    assert_eq!(device.used(), 0);
}

#[test]
fn a_device_elsewhere_gives_what_the_reference_gives_and_all_its_memory_back() {
    for (case, shape) in
        [("sd-like", &[2, 4, 3, 2][..]), ("video", &[1, 16, 2, 3, 2]), ("video-framewise", &[2, 4, 6, 2, 2])]
    {
        let device = mock(MockOptions::default());
        let mut vae = load(case, device.clone());
        let forecast = vae.forecaster().unwrap().decode(shape, &DecodeOptions::default()).unwrap();
        let found = decode(vae.as_mut(), shape).unwrap();
        let expected = decode(load(case, Reference::default()).as_mut(), shape).unwrap();
        assert_eq!(found, expected, "{case}");
        assert_eq!(device.used(), 0, "{case}");
        assert_eq!(vae.peak_memory(), Some(forecast.engine_memory), "{case}");
    }
}

/// Remembers when it heard of progress, and cancels after some.
struct Clock {
    start: Instant,
    heard: Vec<(usize, Duration)>,
    cancel_after: usize,
}

impl Clock {
    /// One that never cancels.
    fn never() -> Self {
        Self { start: Instant::now(), heard: Vec::new(), cancel_after: usize::MAX }
    }
}

impl Observer for Clock {
    fn progress(&mut self, done: usize, _: usize) -> Result<(), Cancelled> {
        self.heard.push((done, self.start.elapsed()));
        if self.heard.len() > self.cancel_after { Err(Cancelled) } else { Ok(()) }
    }
}

#[test]
fn progress_is_of_work_that_is_done_and_cancelling_ends_it() {
    let node = Duration::from_millis(4);
    let device = mock(MockOptions { node, ..MockOptions::default() });
    let mut vae = load("one-block", device.clone());
    let run = |vae: &mut dyn Vae, cancel_after| {
        let mut clock = Clock { cancel_after, ..Clock::never() };
        let result = vae.decode(values(&[1, 2, 1, 1]), &DecodeOptions::default(), &mut clock);
        (result, clock)
    };
    let (result, clock) = run(vae.as_mut(), usize::MAX);
    result.unwrap();
    assert!(clock.heard.len() > 5 && clock.heard.is_sorted_by(|a, b| a.0 < b.0));
    for (index, (_, at)) in clock.heard.iter().enumerate() {
        // At least one node lies between two reports, and none is reported before it is done.
        assert!(*at >= node * index as u32, "report {index} came after {at:?}");
    }
    for cancel_after in [0, 1, 3] {
        let (result, clock) = run(vae.as_mut(), cancel_after);
        assert!(matches!(result, Err(VaeError::Cancelled)), "{result:?}");
        assert_eq!(clock.heard.len(), cancel_after + 1, "nothing is told afterwards");
        assert_eq!(device.used(), 0);
    }
    assert!(run(vae.as_mut(), usize::MAX).0.is_ok(), "the next one works");
}

#[test]
fn errors_that_come_late_keep_their_kind() {
    let faulty = |fault| mock(MockOptions { fault: Some(fault), ..MockOptions::default() });
    for (fault, is_expected) in [
        (
            Fault::LateOutOfMemory,
            (|error| matches!(error, DeviceError::OutOfMemory(_))) as fn(&DeviceError) -> bool,
        ),
        (Fault::LateNumerics, |error| matches!(error, DeviceError::Numerics(_))),
    ] {
        let device = faulty(fault);
        let mut vae = load("one-block", device.clone());
        let mut clock = Clock::never();
        let result = vae.decode(values(&[1, 2, 2, 2]), &DecodeOptions::default(), &mut clock);
        assert!(matches!(&result, Err(VaeError::Device(error)) if is_expected(error)), "{result:?}");
        assert!(clock.heard.len() > 5, "all nodes were done before");
        assert_eq!(device.used(), 0);
    }
}

#[test]
fn a_lost_device_stays_lost_until_it_comes_back() {
    let device = mock(MockOptions { fault: Some(Fault::LostBehind(7)), ..MockOptions::default() });
    let mut vae = load("one-block", device.clone());
    for words in ["behind node 7", "lost before"] {
        let error = decode(vae.as_mut(), &[1, 2, 2, 2]).unwrap_err();
        assert!(
            matches!(&error, VaeError::Device(DeviceError::Lost(_))) && error.to_string().contains(words),
            "{error}"
        );
        assert_eq!(device.used(), 0, "what was on the device is gone with it");
    }
    device.revive();
    let error = decode(vae.as_mut(), &[1, 2, 2, 2]).unwrap_err().to_string();
    assert!(error.contains("behind node 7"), "it works again, up to there: {error}");
}

#[test]
fn memory_that_is_not_there_is_said() {
    // Each value fits by itself, all that are there at once do not.
    let shape = [1, 4, 3, 3];
    let peak = load("sd-like", mock(MockOptions::default()))
        .forecaster()
        .unwrap()
        .decode(&shape, &DecodeOptions::default())
        .unwrap()
        .engine_memory;
    let enough = mock(MockOptions { memory: peak, ..MockOptions::default() });
    assert!(decode(load("sd-like", enough).as_mut(), &shape).is_ok());
    let short = mock(MockOptions { memory: peak - 1, ..MockOptions::default() });
    let result = decode(load("sd-like", short.clone()).as_mut(), &shape);
    assert!(matches!(result, Err(VaeError::Device(DeviceError::OutOfMemory(_)))), "{result:?}");
    assert_eq!(short.used(), 0);
}
