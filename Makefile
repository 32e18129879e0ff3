# A short front to CMake: `make help` lists what there is.
# BUILD=release|debug|asan|tsan|fuzz|clang picks a preset; JOBS the number of compilers.
BUILD ?= release
PREFIX ?= /usr/local
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
TREE := build/$(BUILD)

.DEFAULT_GOAL := build
.PHONY: build demo check check-all check-slow check-cuda bench bench-cuda asan tsan fuzz format install clean help

# Each target installs what it needs and this machine lacks (scripts/bootstrap.sh).
build: ## build the command and the library (the default)
	@./scripts/bootstrap.sh demo
	@grep -qs '^KVF_CUDA:[A-Z]*=\(auto\|on\)' $(TREE)/CMakeCache.txt || \
	    cmake --preset $(BUILD) --log-level=NOTICE -DKVF_TESTS=OFF -DKVF_CUDA=auto
	@cmake --build $(TREE) -j $(JOBS) --target kvfold_cli kvfold kvfold_static

# Without kernels for NVIDIA's GPUs, which take nvcc longer than all the rest; `make` adds them.
demo: ## the main job on the bundled checkpoint; with the build under a minute
	@./scripts/bootstrap.sh demo
	@[ -e $(TREE)/build.ninja ] || \
	    cmake --preset $(BUILD) --log-level=NOTICE -DKVF_TESTS=OFF -DKVF_CUDA=off
	@cmake --build $(TREE) -j $(JOBS) --target kvfold_cli
	@./scripts/demo.sh $(TREE)/kvfold

check: ## build and run the tests: 6 minutes on 2 cores
	@./scripts/bootstrap.sh check
	@cmake --preset $(BUILD) --log-level=NOTICE -DKVF_TESTS=ON
	@cmake --build $(TREE) -j $(JOBS)
	@ctest --test-dir $(TREE) -j 2 -LE 'slow|all' --output-on-failure

# The tests of other builds and emulators; .ci/run calls it.
check-all: check-tools ## and those that need other compilers, emulators, llama.cpp
	@ctest --test-dir $(TREE) -j 2 -LE slow --output-on-failure

check-slow: check-tools ## and the exhaustive and long ones (hours)
	@ctest --test-dir $(TREE) -j 2 --output-on-failure

.PHONY: check-tools
check-tools:
	@./scripts/bootstrap.sh all
	@cmake --preset $(BUILD) --log-level=NOTICE -DKVF_TESTS=ON -DKVF_CUDA=auto
	@cmake --build $(TREE) -j $(JOBS) --target all all_tests

check-cuda: ## the tests that need an NVIDIA GPU, compute-sanitizer
	@./scripts/bootstrap.sh check
	@cmake --preset $(BUILD) --log-level=NOTICE -DKVF_TESTS=ON -DKVF_CUDA=on
	@cmake --build $(TREE) -j $(JOBS) --target kvfold_cli test_conformance test_model_goldens
	@./scripts/check_cuda.sh $(TREE)

bench: build ## time every operation
	@$(TREE)/kvfold bench

bench-cuda: ## what kernels take on an NVIDIA GPU, against its memory (docs/CUDA.md)
	@./scripts/bootstrap.sh check
	@cmake --preset $(BUILD) --log-level=NOTICE -DKVF_TESTS=ON -DKVF_CUDA=on
	@cmake --build $(TREE) -j $(JOBS) --target time_token time_products time_designs
	@./scripts/bench_cuda.sh $(TREE)

asan: ## build and test with address and undefined-behaviour sanitizers
	@./scripts/bootstrap.sh check
	@cmake --preset asan --log-level=NOTICE -DKVF_TESTS=ON
	@cmake --build build/asan -j $(JOBS)
	@ctest --preset asan

tsan: ## the same with the thread sanitizer
	@./scripts/bootstrap.sh check
	@cmake --preset tsan --log-level=NOTICE -DKVF_TESTS=ON
	@cmake --build build/tsan -j $(JOBS)
	@ctest --preset tsan

fuzz: ## look for new inputs that break a reader, 60 s a fuzz target (clang)
	@./scripts/bootstrap.sh all
	@cmake --preset fuzz --log-level=NOTICE -DKVF_TESTS=ON
	@cmake --build --preset fuzz -j $(JOBS)
	@ctest --preset fuzz

format: ## format all C sources in place (clang-format 14)
	@find include src tests bench -name '*.[ch]' -exec clang-format -i {} +

install: build ## install below PREFIX (/usr/local)
	@cmake --install $(TREE) --prefix $(PREFIX)

clean: ## remove everything that was built
	@rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
