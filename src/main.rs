//! The `asidecar` program: everything is in the library, see its first page.

fn main() -> std::process::ExitCode {
    asidecar::cli::main()
}
