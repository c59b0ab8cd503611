# The two commands are `make demo` and `make check`; each installs what it needs (tools/bootstrap) and builds first.
.PHONY: all build demo check bench format bootstrap clean

all: build

bootstrap:
	@tools/bootstrap

build: bootstrap
	@cmake --preset release >/dev/null
	@cmake --build --preset release

demo: build
	@tools/demo

check: build
	@tools/check

bench: build
	@tools/bench

format: bootstrap
	@git ls-files '*.cc' '*.h' '*.c' | xargs clang-format-19 -i

clean:
	@rm -rf build
