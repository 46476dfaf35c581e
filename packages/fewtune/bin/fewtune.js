#!/usr/bin/env node
// A file that exists before the build, so that npm can link it when a clone is installed.
import '../dist/cli/main.js';
