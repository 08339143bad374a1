#!/usr/bin/env bash
# Finds a Chromium for the App tests; as root on Debian or Ubuntu it installs one with a font.
# Never fails the build: without a browser those tests are skipped and say so.
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null && { echo "browser: $(command -v "$name")"; exit 0; }
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing chromium for the App tests"
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-dejavu-core) >/dev/null 2>&1 \
    && { echo "browser: $(command -v chromium)"; exit 0; }
fi
echo "no browser: the App tests will be skipped (install chromium to run them)"
