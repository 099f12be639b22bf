package dev.standpipe.client;

import dev.standpipe.v1.Consistency;
import dev.standpipe.v1.HydrateContextRequest;
import dev.standpipe.v1.Source;
import dev.standpipe.v1.SourceBudget;
import java.util.List;
import java.util.function.UnaryOperator;

/** What a hydrate asks for beside its query. Immutable: every method returns another one. */
public final class HydrateOptions {
  private static final HydrateOptions NONE = new HydrateOptions(HydrateContextRequest.getDefaultInstance());

  private final HydrateContextRequest request;

  private HydrateOptions(HydrateContextRequest request) {
    this.request = request;
  }

  /**
   * Returns options that leave everything to the policy.
   *
   * @return the options
   */
  public static HydrateOptions create() {
    return NONE;
  }

  /**
   * Takes the policy that a route points at.
   *
   * @param route its name; empty means "default"
   * @return options with it
   */
  public HydrateOptions route(String route) {
    return with(request -> request.setRoute(route));
  }

  /**
   * Lowers the policy's budget; never raises it.
   *
   * @param tokens the bundle's most
   * @return options with it
   */
  public HydrateOptions budgetTokens(int tokens) {
    return with(request -> {
      request.getBudgetBuilder().setTotalTokens(tokens);
      return request;
    });
  }

  /**
   * Lowers the policy's cap of one source; never raises it.
   *
   * @param source which
   * @param tokens its most
   * @return options with it
   */
  public HydrateOptions cap(Source source, int tokens) {
    return with(request -> {
      request.getBudgetBuilder().addSources(SourceBudget.newBuilder().setSource(source).setCapTokens(tokens));
      return request;
    });
  }

  /**
   * Names the sources wanted, of those that the policy allows.
   *
   * @param sources all of them
   * @return options with them
   */
  public HydrateOptions include(Source... sources) {
    return with(request -> request.clearInclude().addAllInclude(List.of(sources)));
  }

  /**
   * Asks for a freshness of its own, instead of every acknowledged commit and all that this session has seen.
   *
   * @param consistency such as {@code Consistency.newBuilder().setFullyConsistent(true).build()}
   * @return options with it
   */
  public HydrateOptions consistency(Consistency consistency) {
    return with(request -> request.setConsistency(consistency));
  }

  /**
   * Counts with another tokenizer than the policy's.
   *
   * @param tokenizer its name, such as "cl100k_base"
   * @return options with it
   */
  public HydrateOptions tokenizer(String tokenizer) {
    return with(request -> request.setTokenizer(tokenizer));
  }

  /**
   * Counts with a model's tokenizer.
   *
   * @param model its name, such as "gpt-4o"
   * @return options with it
   */
  public HydrateOptions model(String model) {
    return with(request -> request.setModel(model));
  }

  HydrateContextRequest.Builder request() {
    return request.toBuilder();
  }

  private HydrateOptions with(UnaryOperator<HydrateContextRequest.Builder> change) {
    return new HydrateOptions(change.apply(request.toBuilder()).build());
  }
}
