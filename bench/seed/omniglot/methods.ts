import { say } from '../../lib/bench.js';
import { kept } from '../../lib/kept.js';
import { noPeers, runPeer } from '../../lib/peers.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import type { Part, PartContext } from '../engine/part.js';
import { type Arm, arms } from './arms.js';
import { type ArmResult, runArm } from './run-arm.js';
import { omniglotSetting, type Setting, tasksPerStep } from './setting.js';

/** 5-way 1-shot on alphabets that were not trained on: every method beside its peer, on the same episodes. */
export const methods: Part = {
  name: 'methods',
  async run(context) {
    const setting = await omniglotSetting(context.quick);
    const results = new Map<string, ArmResult>();
    for (const arm of arms) {
      results.set(arm.name, await keptArm(arm.name, arm, setting, context, () => runArm(arm, setting, 1)));
      if (context.python && arm.name !== 'MAML++') {
        const peer = () => runPeer<ArmResult>(context.python!, 'torch_fewshot.py', peerArguments(arm, setting));
        results.set(arm.peer, await keptArm(arm.peer, arm, setting, context, peer));
      }
    }
    return [...arms.flatMap((arm) => armRows(arm, setting, results)), ...orderRows(results)];
  },
};

const peerArguments = (arm: Arm, { file }: Setting): string[] => [
  '--file',
  file,
  '--threads',
  '1',
  '--arm',
  JSON.stringify({ ...arm, tasksPerStep }),
];

/** A run that was kept, or one that is measured now and told. */
const keptArm = (name: string, arm: Arm, { steps }: Setting, context: PartContext, measure: () => Promise<ArmResult>) =>
  kept(`omniglot/${name}`, [arm, steps], context, async () => {
    const result = await measure();
    const percent = (scores: readonly number[]) => (100 * mean(scores)).toFixed(2);
    const [transductive, not] = [percent(result.transductive), percent(result.inductive)];
    say(`${name}: ${transductive} % transductive, ${not} % not; ${result.seconds.toFixed(0)} s`);
    return result;
  });

const interval = (values: readonly number[]) => studentInterval(values.map((value) => 100 * value));
const between = ({ low, high }: { low: number; high: number }) =>
  `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}`;

function armRows(arm: Arm, { steps }: Setting, results: ReadonlyMap<string, ArmResult>): Row[] {
  const [ours, theirs] = [results.get(arm.name)!, results.get(arm.peer)];
  const kinds =
    arm.kind === 'maml' ? (['transductive', 'inductive'] as const) : (['inductive', 'transductive'] as const);
  return kinds.flatMap((kind, rank): Row[] => {
    const own = interval(ours[kind]);
    const peer = theirs && interval(theirs[kind]);
    const what = `5-way 1-shot, ${arm.name}${kind === 'transductive' ? ', statistics of the queries' : ''}`;
    const note = [
      `${between(own)}, ${ours[kind].length} episodes`,
      peer ? `${arm.peer} ${between(peer)}` : noPeers,
      rank === 0
        ? `${steps} steps of ${tasksPerStep} tasks; published ${arm.published} (whole Omniglot, other split)`
        : undefined,
    ];
    const rows = [
      row({
        what,
        ours: own.mean,
        unit: '%',
        peer: peer?.mean ?? null,
        peerName: arm.peer,
        target: null,
        note: note.filter(Boolean).join('; '),
      }),
    ];
    if (!theirs || rank > 0) return rows;
    const behind = interval(ours[kind].map((value, i) => theirs[kind][i]! - value));
    return [
      ...rows,
      row({
        what: `${what}: points behind ${arm.peer}`,
        ours: behind.mean,
        unit: 'points',
        target: '<= 1',
        note: `paired, ${between(behind)}; below 0 is ahead`,
      }),
    ];
  });
}

/** Second order against first. */
function orderRows(results: ReadonlyMap<string, ArmResult>): Row[] {
  const [second, first] = [results.get('MAML')!, results.get('FOMAML')!];
  const gain = interval(second.transductive.map((value, i) => value - first.transductive[i]!));
  return [
    row({
      what: '5-way 1-shot, second-order MAML − first-order',
      ours: gain.mean,
      unit: 'points',
      target: '>= 0',
      note: `paired, ${between(gain)}`,
    }),
  ];
}
