//! The flags of `serve` that say how much the server takes on.

use std::time::Duration;

use clap::ValueEnum;
use server::{Config, OnLarge};
use wire::Limits;

use super::heading;
use super::number::{ANY, whole};
use super::size::Size;

/// How much one request, and all together, may ask for.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = heading::REQUESTS)]
pub(crate) struct LimitArgs {
    /// Pixels of one picture or frame; 4194304 are 2048 x 2048
    #[arg(long, value_name = "N", value_parser = whole::<usize>(ANY), default_value_t = Limits::default().max_pixels)]
    max_pixels: usize,
    /// Pixels of a whole request, batch and frames together [default: 16777216, for models of videos 134217728, or
    /// --max-pixels if that is more]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(ANY))]
    max_total_pixels: Option<usize>,
    /// Pictures or videos of one request
    #[arg(long, value_name = "N", value_parser = whole::<usize>(ANY), default_value_t = Limits::default().max_batch)]
    max_batch: usize,
    /// Take latents and pixels that hold NaN or infinity, which are otherwise refused: they make black or grey pictures
    #[arg(long)]
    allow_non_finite: bool,
    /// Size of the tensor or picture that a request sends [default: 64MiB, for models of videos 384MiB]
    #[arg(long, value_name = "SIZE")]
    max_body: Option<Size>,
    /// Size of all bodies together that may be on their way or wait, such as 512MiB; at most a quarter of --memory-limit
    #[arg(long, value_name = "SIZE", default_value_t = Size(Config::default().service.max_pending_bytes))]
    max_pending: Size,
    /// Requests that may wait while others are worked on; one more is told to come back later [default: as many as fit into
    /// --max-pending and come to their turn in time]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(ANY))]
    max_queue: Option<usize>,
    /// Work on small pictures of the same shape that wait together in one go: more of them a second, and values that may
    /// differ from those of a lone request by rounding, far less than what eight bits show
    #[arg(long)]
    batch_requests: bool,
    /// Connections that may be open together; more wait to be accepted
    #[arg(long, value_name = "N", value_parser = whole::<usize>(ANY), default_value_t = Config::default().max_connections)]
    max_connections: usize,
    /// Connections that may be open from one address; one more is refused [default: a quarter of --max-connections, or
    /// all of them with --trust-forwarded-for or --trust-forwarded]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(ANY))]
    max_connections_per_client: Option<usize>,
    /// Memory that the server may have while it works, such as 8GiB; what does not fit is done as --on-large says
    /// [default: nine tenths of the machine's, or of what the container may have]
    #[arg(long, value_name = "SIZE", help_heading = heading::MEMORY)]
    memory_limit: Option<Size>,
    /// How far to go from the exact decode where that does not fit into memory
    #[arg(long, value_name = "HOW", default_value = "lean", help_heading = heading::MEMORY)]
    on_large: OnLargeArg,
    /// After how long without work the server gives back memory that it keeps for the next request, which then takes a
    /// little longer
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1m", help_heading = heading::MEMORY)]
    idle_release: Duration,
    /// How long a request may take in all, such as 90s or 10m; clients may ask for less by `x-request-timeout`
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1h", help_heading = heading::TIME)]
    timeout: Duration,
    /// How long a client may take to send its request's head
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s", help_heading = heading::TIME)]
    header_timeout: Duration,
    /// How long a client may take to send its request's body
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1m", help_heading = heading::TIME)]
    body_timeout: Duration,
    /// How long a client may take for each MiB of its answer
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1m", help_heading = heading::TIME)]
    write_timeout: Duration,
    /// How long a connection may be idle between two requests; longer than the load balancer in front keeps it
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "75s", help_heading = heading::TIME)]
    keep_alive: Duration,
    /// After a stop signal: how long work is still taken, while /ready says 503 already, so that a load balancer can
    /// send it elsewhere [default: not at all]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = heading::TIME)]
    drain_delay: Option<Duration>,
    /// After a stop signal, and after --drain-delay: how long accepted requests may take to be finished
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5m", help_heading = heading::TIME)]
    drain_timeout: Duration,
}

/// `--on-large`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnLargeArg {
    /// Try the exact decode anyway, at the risk that the system ends the server.
    Exact,
    /// Keep values in 16 bits between layers: half of the memory, hardly a difference.
    Lean,
    /// Where that does not fit either, decode in overlapping tiles: little memory, faint seams.
    Tile,
    /// Refuse.
    Refuse,
}

impl LimitArgs {
    /// The configuration that these flags say; what they do not say is as it was in `config`.
    pub(crate) fn apply(&self, config: Config) -> Config {
        let limits = |defaults: Limits| Limits {
            max_body_bytes: self.max_body.map_or(defaults.max_body_bytes, |size| size.0),
            max_batch: self.max_batch,
            max_pixels: self.max_pixels,
            max_total_pixels: self
                .max_total_pixels
                .unwrap_or_else(|| defaults.max_total_pixels.max(self.max_pixels)),
        };
        let on_large = match self.on_large {
            OnLargeArg::Exact => OnLarge::Exact,
            OnLargeArg::Lean => OnLarge::Lean,
            OnLargeArg::Tile => OnLarge::Tile,
            OnLargeArg::Refuse => OnLarge::Refuse,
        };
        let service = service::Config {
            batch_requests: self.batch_requests,
            max_queue: self.max_queue,
            limits: limits(Limits::default()),
            video_limits: limits(Limits::for_videos()),
            allow_non_finite: self.allow_non_finite,
            memory_limit: self.memory_limit.map(|size| size.0).or(config.service.memory_limit),
            on_large,
            max_pending_bytes: self.max_pending.0,
            idle_release: self.idle_release,
            ..config.service
        };
        Config {
            service,
            max_connections: self.max_connections,
            max_connections_per_client: self.max_connections_per_client,
            keep_alive: self.keep_alive,
            timeout: self.timeout,
            header_timeout: self.header_timeout,
            body_timeout: self.body_timeout,
            write_timeout: self.write_timeout,
            drain_delay: self.drain_delay.unwrap_or(config.drain_delay),
            drain_timeout: self.drain_timeout,
            ..config
        }
    }
}

/// A time with its unit, above 0.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be above 0".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("expected a time such as 500ms, 90s, 10m or 1h: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, String> {
        let command = LimitArgs::augment_args(clap::Command::new("test"));
        let matches = command.try_get_matches_from([&["test"], flags].concat()).map_err(|e| e.to_string())?;
        Ok(LimitArgs::from_arg_matches(&matches).unwrap().apply(Config::default()))
    }

    #[test]
    fn without_flags_the_server_has_its_own_defaults() {
        assert_eq!(format!("{:?}", parse(&[]).unwrap()), format!("{:?}", Config::default()));
    }

    #[test]
    fn sizes_and_times_have_units() {
        let config = parse(&["--max-body=3MiB", "--max-pending=1GB", "--timeout=1m 30s"]).unwrap();
        assert_eq!(
            (config.service.limits.max_body_bytes, config.service.max_pending_bytes),
            (3 << 20, 1_000_000_000)
        );
        assert_eq!(config.service.video_limits.max_body_bytes, 3 << 20);
        assert_eq!(config.timeout, Duration::from_secs(90));
        for nonsense in [
            "--timeout=0s",
            "--timeout=90",
            "--timeout=-1s",
            "--max-body=much",
            "--max-pixels=-1",
            "--idle-release=5",
        ] {
            assert!(parse(&[nonsense]).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused_wherever_a_size_is_meant() {
        for flag in ["--memory-limit", "--max-body", "--max-pending"] {
            let error = parse(&[&format!("{flag}=8")]).unwrap_err();
            assert!(error.contains(flag) && error.contains("it has no unit: write 8GiB or 8MiB"), "{error}");
        }
    }

    #[test]
    fn one_large_picture_is_no_large_request() {
        let limits = |flags: &[&str]| parse(flags).unwrap().service.limits;
        assert_eq!(limits(&["--max-pixels=99999999"]).max_total_pixels, 99_999_999);
        assert_eq!(limits(&["--max-pixels=1"]).max_total_pixels, Limits::default().max_total_pixels);
        assert_eq!(limits(&["--max-pixels=9", "--max-total-pixels=8"]).max_total_pixels, 8);
        let videos = |flags: &[&str]| parse(flags).unwrap().service.video_limits.max_total_pixels;
        assert_eq!(videos(&[]), Limits::for_videos().max_total_pixels);
        assert_eq!(videos(&["--max-total-pixels=8"]), 8);
    }
}
