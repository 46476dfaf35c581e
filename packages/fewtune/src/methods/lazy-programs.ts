/** Programs that are compiled on first use and kept under a name. */
export class LazyPrograms<P extends { dispose(): Promise<void> }> {
  private readonly open = new Map<string, Promise<P>>();

  /** One that does not compile is not kept. */
  get(name: string, compile: () => Promise<P>): Promise<P> {
    const found = this.open.get(name);
    if (found) return found;
    const made = compile();
    this.open.set(name, made);
    made.catch(() => this.open.delete(name));
    return made;
  }

  async dispose(): Promise<void> {
    const open = [...this.open.values()];
    this.open.clear();
    for (const end of await Promise.allSettled(open)) if (end.status === 'fulfilled') await end.value.dispose();
  }
}
