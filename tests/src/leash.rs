//! What all tests of one program share: made by the first that asks, used by one at a time, and ended with the program.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// One for all, so that what one test has made lives on for the next.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// A value that all tests of a program share.
pub struct Shared<T> {
    value: OnceCell<T>,
    turn: Mutex<()>,
}

impl<T: Send + Sync + 'static> Shared<T> {
    #[expect(clippy::new_without_default, reason = "a default cannot be made in a static")]
    pub const fn new() -> Self {
        Self { value: OnceCell::const_new(), turn: Mutex::new(()) }
    }

    /// Runs a test on the value, which `make` makes if there is none yet. No other test has it meanwhile.
    pub fn run(&self, make: impl Future<Output = T> + Send + 'static, test: impl AsyncFnOnce(&T)) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Envoy ends with the thread that started it, and that of a test does not live on.
        let make = async || RUNTIME.spawn(make).await.expect("it could not be made");
        RUNTIME.block_on(async { test(self.value.get_or_init(make).await).await });
    }
}

/// Ends a process, and removes its folder, when this program ends, however it ends. What is shared is never dropped.
pub struct Leash(Child);

impl Leash {
    pub fn on(process: u32, folder: &Path) -> Self {
        let script =
            "read -r _; kill \"$0\"; while kill -0 \"$0\" 2>/dev/null; do sleep 0.05; done; rm -rf -- \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, &process.to_string()]).arg(folder);
        // The end of this program closes the pipe, and only that.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// The watching process itself.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}
