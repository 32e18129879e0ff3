# A short front to CMake: `make help` lists what there is.
# BUILD=release|debug|asan|tsan|fuzz|clang picks a preset; JOBS the number of compilers.
BUILD ?= release
PREFIX ?= /usr/local
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
TREE := build/$(BUILD)

.DEFAULT_GOAL := build
.PHONY: build bootstrap check check-slow demo bench asan tsan fuzz format install clean help

build: bootstrap $(TREE)/build.ninja ## build everything (the default)
	@cmake --build $(TREE) -j $(JOBS)

bootstrap: ## install the packages that are missing
	@./scripts/bootstrap.sh

$(TREE)/build.ninja:
	cmake --preset $(BUILD)

check: build ## build and run the tests
	@ctest --test-dir $(TREE) -j 2 -LE slow --output-on-failure

check-slow: build ## the same with the exhaustive and long tests (hours)
	@ctest --test-dir $(TREE) -j 2 --output-on-failure

demo: build ## the main job on the bundled checkpoint, under 3 minutes
	@./scripts/demo.sh $(TREE)/kvfold

bench: build ## time every operation
	@$(TREE)/kvfold bench

asan: ## build and test with address and undefined-behaviour sanitizers
	@$(MAKE) build BUILD=asan
	@ctest --preset asan

tsan: ## the same with the thread sanitizer
	@$(MAKE) build BUILD=tsan
	@ctest --preset tsan

fuzz: ## look for new inputs that break a reader, 60 s a fuzz target (clang)
	@$(MAKE) build BUILD=fuzz
	@ctest --preset fuzz

format: ## format all C sources in place
	@find include src tests bench -name '*.[ch]' -exec clang-format -i {} +

install: build ## install below PREFIX (/usr/local)
	@cmake --install $(TREE) --prefix $(PREFIX)

clean: ## remove everything that was built
	@rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
