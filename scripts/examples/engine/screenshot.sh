#!/bin/sh
# sh scripts/examples/engine/screenshot.sh [ENGINE]
#
# Makes screenshot.png beside this file, without a screen: the engine as it bakes.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
engine=${1:-build/examples/engine}
SDL_VIDEODRIVER=dummy exec "$engine" --workers 3 --samples 32 --frames 1 \
  --screenshot "$folder/screenshot.png" 82
