//! The program `farthing`.

fn main() -> std::process::ExitCode {
    farthing::cli::main()
}
