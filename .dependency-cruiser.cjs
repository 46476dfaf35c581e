// The direction of imports: engine ← models ← fewtune; inside fewtune data, evaluation, artifact ← methods ← advisor ← workflow ← cli.
const fewtune = '^packages/fewtune/src/';
const below = (room, forbidden) => ({
  name: `${room}-imports-only-what-stands-below`,
  severity: 'error',
  from: { path: `${fewtune}${room}/`, pathNot: '\\.test\\.ts$' },
  to: { path: `${fewtune}(${forbidden.join('|')})/` },
});

module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'engine-knows-no-other-package',
      severity: 'error',
      from: { path: '^packages/engine/' },
      to: { path: '^packages/(models|fewtune|encoder-minilm)/' },
    },
    {
      name: 'models-import-only-engine',
      severity: 'error',
      from: { path: '^packages/models/' },
      to: { path: '^packages/(fewtune|encoder-minilm)/' },
    },
    {
      name: 'packages-do-not-import-bench-or-examples',
      severity: 'error',
      from: { path: '^packages/' },
      to: { path: '^(bench|examples)/' },
    },
    below('data', ['methods', 'advisor', 'workflow', 'cli']),
    below('evaluation', ['methods', 'advisor', 'workflow', 'cli']),
    below('artifact', ['methods', 'advisor', 'workflow', 'cli']),
    below('methods', ['advisor', 'workflow', 'cli']),
    below('advisor', ['workflow', 'cli']),
    below('workflow', ['cli']),
  ],
  options: {
    // `@fewtune/engine` resolves to packages/engine/dist: a leaf whose path still tells the package, so rules match it.
    doNotFollow: { path: '(^|/)(node_modules|dist)/' },
    exclude: { path: '^(bench|examples)/dist/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.base.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'default'] },
  },
};
