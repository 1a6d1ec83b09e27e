#!/bin/sh
# Install Claude Code, in the version that tests/e2e/test_claude_code.py was written for, into .cache/claude-code.
# Needs npm. The version is named because npm on an older Node otherwise picks an older one. The package's program is a
# native one that comes as an optional dependency for this platform; it is linked as .cache/claude-code/claude.
set -eu

version=2.1.330
root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/.cache/claude-code

mkdir -p "$target"
npm install --prefix "$target" --no-save --no-audit --no-fund --ignore-scripts "@anthropic-ai/claude-code@$version"
for program in "$target"/node_modules/@anthropic-ai/claude-code-*/claude; do
    ln -sf "$program" "$target/claude"
done
HOME=$target CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 "$target/claude" --version
