//! Running the program, without what the environment of the tests would tell it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use safetensors::tensor::{Dtype, TensorView};

/// A run that is over.
pub(crate) struct Finished {
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Itself, if all went well.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that it failed with this code, and said so once, in these words.
    pub(crate) fn fails(self, code: i32, sentence: &str) {
        let Self { code: found, stdout, stderr } = self;
        assert_eq!(found, Some(code), "stdout:\n{stdout}\nstderr:\n{stderr}");
        assert!(stderr.contains(sentence), "{sentence:?} is missing in\n{stderr}");
        if code == 1 {
            let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
            assert_eq!(lines.len(), 1, "not one error in\n{stderr}");
        }
    }
}

/// The program with these arguments and variables.
pub(crate) fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remote-vae"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REMOTE_VAE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Finished {
    run_with(arguments, &[])
}

/// Runs it to its end, with these variables.
pub(crate) fn run_with(arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    let output = command(arguments, variables).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A running `remote-vae serve` on a free port.
pub(crate) struct Serving {
    child: Child,
    /// What it told, until it said how to stop it.
    pub(crate) greeting: String,
    pub(crate) url: String,
    // Kept open: the server may say more.
    _stdout: BufReader<ChildStdout>,
}

impl Serving {
    pub(crate) fn start(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_as(flags, variables, None)
    }

    /// With https, by the certificate in a file.
    pub(crate) fn start_encrypted(flags: &[&str], certificate: &str) -> Self {
        Self::start_as(flags, &[], Some(certificate))
    }

    fn start_as(flags: &[&str], variables: &[(&str, &str)], certificate: Option<&str>) -> Self {
        let arguments = [&["--log=warn", "serve", "--port=0"], flags].concat();
        let mut command = command(&arguments, variables);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = String::new();
        while !greeting.contains("Stop with") {
            if stdout.read_line(&mut greeting).unwrap() == 0 {
                let mut stderr = String::new();
                child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                panic!("the server ended by itself:\n{greeting}\n{stderr}");
            }
        }
        let url = greeting.split_whitespace().find(|word| word.starts_with("http")).unwrap().to_owned();
        let serving = Self { child, greeting, url, _stdout: stdout };
        // The models are loaded, but the first decode, which warms them up, may still run.
        let client = client::blocking::RemoteVae::builder(&serving.url);
        let client = match certificate {
            Some(file) => client.trust(&std::fs::read(file).unwrap()),
            None => client,
        };
        let client = client.build().unwrap();
        while !client.is_ready().unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        serving
    }

    /// Asks it to stop, and gives its exit code and what it had to complain of.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let code = self.child.wait().unwrap().code();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (code, stderr)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Stopped already, or a test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Values in [-2, 2) from a linear congruential generator, which is as good as any.
pub(crate) fn values(count: usize) -> Vec<f32> {
    let mut state = 7u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 16384.0 - 2.0
    };
    (0..count).map(next).collect()
}

/// Writes float16 latents `[1, 16, 3, 5]`, the same under each name, and gives the path.
pub(crate) fn write_latents(folder: &Path, file: &str, names: &[&str]) -> String {
    let data: Vec<u8> =
        values(16 * 3 * 5).into_iter().flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect();
    let view = || TensorView::new(Dtype::F16, vec![1, 16, 3, 5], &data).unwrap();
    let content = safetensors::serialize(names.iter().map(|name| (*name, view())), None).unwrap();
    let path = folder.join(file);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}
