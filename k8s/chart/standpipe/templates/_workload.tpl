{{/* What shared, embedder and worker have in common: a Deployment and what stands around it. All take a UNIT. */}}

{{- define "standpipe.serviceAccountName" -}}
{{- $account := .values.serviceAccount -}}
{{- $account.name | default (ternary (include "standpipe.componentName" .) "default" $account.create) -}}
{{- end -}}

{{- define "standpipe.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- $account := .values.serviceAccount }}
  {{- include "standpipe.metadata" (merge (dict "name" (include "standpipe.serviceAccountName" .) "annotations" $account.annotations) .) | nindent 2 }}
automountServiceAccountToken: false
{{- end -}}

{{/* Whether something else than the values says how many pods there are. */}}
{{- define "standpipe.scaled" -}}
{{- if or (.values.autoscaling | default dict).enabled (.values.keda | default dict).enabled -}}true{{- end -}}
{{- end -}}

{{/* The settings in force, for what depends on them. */}}
{{- define "standpipe.drainSeconds" -}}
{{- $ms := (include "standpipe.config" . | fromYaml).drain_ms | default 1500 | int -}}
{{- div (add $ms 999) 1000 -}}
{{- end -}}

{{- define "standpipe.strategy" -}}
{{- if .values.strategy -}}
{{- toYaml .values.strategy -}}
{{- else if hasKey (include "standpipe.given" . | fromYaml) "record" -}}
type: Recreate  # one process alone opens a SQLite file
{{- else if (.values.gpu | default dict).enabled -}}
type: RollingUpdate
rollingUpdate:
  maxSurge: 0  # there may be no GPU for one pod more
  maxUnavailable: 1
{{- else -}}
type: RollingUpdate
rollingUpdate:
  maxSurge: 1
  maxUnavailable: 0
{{- end -}}
{{- end -}}

{{/* What is asked of a node: CPU and memory, and the embedder's GPU. */}}
{{- define "standpipe.resources" -}}
{{- $gpu := .values.gpu | default dict -}}
{{- if $gpu.enabled -}}
{{- $resources := deepCopy $gpu.resources -}}
{{- if $gpu.claim.enabled -}}
{{- $_ := set $resources "claims" (list (dict "name" "gpu")) -}}
{{- else -}}
{{- $_ := set $resources "limits" (merge (dict $gpu.resourceName 1) ($resources.limits | default dict)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- else -}}
{{- toYaml .values.resources -}}
{{- end -}}
{{- end -}}

{{/* With `args`: the Deployment. */}}
{{- define "standpipe.deployment" -}}
{{- $pod := include "standpipe.pod" . | fromYaml -}}
{{- $grpc := ne .component "worker" -}}
{{- $sleep := ternary ($pod.preStopSleepSeconds | int) 0 $grpc -}}
apiVersion: {{ include "standpipe.apiVersion" (merge (dict "kind" "deployment") .) }}
kind: Deployment
metadata:
  {{- include "standpipe.metadata" . | nindent 2 }}
spec:
  {{- if not (include "standpipe.scaled" .) }}
  replicas: {{ .values.replicas | int }}
  {{- end }}
  revisionHistoryLimit: {{ $pod.revisionHistoryLimit | int }}
  selector:
    matchLabels:
      {{- include "standpipe.selectorLabels" . | nindent 6 }}
  strategy:
    {{- include "standpipe.strategy" . | nindent 4 }}
  template:
    metadata:
      {{- $annotations := dict
          "kubectl.kubernetes.io/default-container" "standpipe"
          "checksum/config" (include "standpipe.config" . | sha256sum) }}
      {{- include "standpipe.podMetadata" (merge (dict "annotations" $annotations) .) | nindent 6 }}
    spec:
      serviceAccountName: {{ include "standpipe.serviceAccountName" . }}
      {{- include "standpipe.podSpec" (merge (dict "grace" (add (include "standpipe.drainSeconds" .) $sleep 5)) .) | nindent 6 }}
      containers:
      - name: standpipe
        {{- include "standpipe.image" . | nindent 8 }}
        args: {{ toJson .args }}
        ports:
        {{- if $grpc }}
        - name: grpc
          containerPort: 7460
        {{- end }}
        - name: http
          containerPort: 7461
        env:
          {{- include "standpipe.env" . | nindent 10 }}
        resources:
          {{- include "standpipe.resources" . | nindent 10 }}
        {{- include "standpipe.probes" . | nindent 8 }}
        {{- if $sleep }}
        lifecycle:
          preStop:
            sleep:
              seconds: {{ $sleep }}
        {{- end }}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          {{- toYaml $pod.containerSecurityContext | nindent 10 }}
        volumeMounts:
          {{- include "standpipe.volumeMounts" . | trim | nindent 10 }}
      {{- with $pod.extraContainers }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      volumes:
        {{- include "standpipe.volumes" . | trim | nindent 8 }}
{{- end -}}

{{/* With `grace`, seconds until it is killed: what a pod of the chart says beside its containers and volumes. */}}
{{- define "standpipe.podSpec" -}}
{{- $pod := include "standpipe.pod" . | fromYaml -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $pod.securityContext | nindent 2 }}
{{- with .grace }}
terminationGracePeriodSeconds: {{ . }}
{{- end }}
{{- range $name := list "runtimeClassName" "priorityClassName" "schedulerName" }}
{{- with get $pod $name }}
{{ $name }}: {{ . }}
{{- end }}
{{- end }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "dnsConfig" }}
{{- with get $pod $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with ternary (list) $pod.topologySpreadConstraints (has .component (list "migration" "smoke")) }}
topologySpreadConstraints:
{{- range . }}
- {{ merge (dict) . (dict "labelSelector" (dict "matchLabels" (include "standpipe.selectorLabels" $ | fromYaml))) | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- if and (eq .component "embedder") .values.gpu.enabled .values.gpu.claim.enabled }}
resourceClaims:
- name: gpu
  resourceClaimTemplateName: {{ .values.gpu.claim.existingTemplate | default (include "standpipe.componentName" .) }}
{{- end }}
{{- with $pod.extraInitContainers }}
initContainers:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{/* With `port`: the Service. */}}
{{- define "standpipe.service" -}}
{{- $service := .values.service -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "standpipe.metadata" (merge (dict "labels" $service.labels "annotations" $service.annotations) .) | nindent 2 }}
spec:
  type: {{ $service.type | default "ClusterIP" }}
  {{- if $service.headless }}
  clusterIP: None
  {{- end }}
  selector:
    {{- include "standpipe.selectorLabels" . | nindent 4 }}
  ports:
  - name: grpc
    port: {{ $service.port | default 7460 | int }}
    targetPort: grpc
    appProtocol: {{ ternary "kubernetes.io/h2c" "https" (empty .values.tls.existingSecret) }}
{{- end -}}

{{- define "standpipe.podDisruptionBudget" -}}
{{- $budget := .values.podDisruptionBudget -}}
apiVersion: {{ include "standpipe.apiVersion" (merge (dict "kind" "podDisruptionBudget") .) }}
kind: PodDisruptionBudget
metadata:
  {{- include "standpipe.metadata" . | nindent 2 }}
spec:
  {{- if ne (toString $budget.minAvailable) "" }}
  minAvailable: {{ include "standpipe.count" $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ include "standpipe.count" (ternary 1 $budget.maxUnavailable (eq (toString $budget.maxUnavailable) "")) }}
  {{- end }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "standpipe.selectorLabels" . | nindent 6 }}
{{- end -}}

{{/* A number of pods, or a percentage of them. */}}
{{- define "standpipe.count" -}}
{{- if kindIs "string" . }}{{ . | quote }}{{ else }}{{ . | int }}{{ end -}}
{{- end -}}

{{/* With `metric` and `target`, what is aimed at for each pod: the HorizontalPodAutoscaler. */}}
{{- define "standpipe.horizontalPodAutoscaler" -}}
{{- $scaling := .values.autoscaling -}}
apiVersion: {{ include "standpipe.apiVersion" (merge (dict "kind" "horizontalPodAutoscaler") .) }}
kind: HorizontalPodAutoscaler
metadata:
  {{- include "standpipe.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: {{ include "standpipe.apiVersion" (merge (dict "kind" "deployment") .) }}
    kind: Deployment
    name: {{ include "standpipe.componentName" . }}
  minReplicas: {{ $scaling.minReplicas | int }}
  maxReplicas: {{ $scaling.maxReplicas | int }}
  metrics:
  {{- if .target }}
  - type: Pods
    pods:
      metric:
        name: {{ .metric }}
      target:
        type: AverageValue
        averageValue: {{ .target | int64 | quote }}
  {{- end }}
  {{- if $scaling.cpuPercent }}
  - type: ContainerResource
    containerResource:
      name: cpu
      container: standpipe
      target:
        type: Utilization
        averageUtilization: {{ $scaling.cpuPercent | int }}
  {{- end }}
  {{- with $scaling.behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* With `metric` and `target`: KEDA's ScaledObject. */}}
{{- define "standpipe.scaledObject" -}}
{{- $keda := .values.keda -}}
apiVersion: {{ include "standpipe.apiVersion" (merge (dict "kind" "scaledObject") .) }}
kind: ScaledObject
metadata:
  {{- include "standpipe.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    name: {{ include "standpipe.componentName" . }}
  minReplicaCount: {{ $keda.minReplicas | int }}
  maxReplicaCount: {{ $keda.maxReplicas | int }}
  {{- with $keda.advanced }}
  advanced:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  triggers:
  - type: prometheus
    metricType: AverageValue
    metadata:
      serverAddress: {{ $keda.serverAddress | quote }}
      query: {{ printf "sum(%s{namespace=%q, pod=~%q})" .metric .root.Release.Namespace (printf "%s-.+" (include "standpipe.componentName" .)) | squote }}
      threshold: {{ .target | int64 | quote }}
    {{- with $keda.authenticationRef }}
    authenticationRef:
      name: {{ . }}
    {{- end }}
{{- end -}}

{{/* With `peers`, who may call gRPC, and `denyEgress`, whether pods may call nobody: the NetworkPolicy. */}}
{{- define "standpipe.networkPolicy" -}}
{{- $policy := .values.networkPolicy -}}
apiVersion: {{ include "standpipe.apiVersion" (merge (dict "kind" "networkPolicy") .) }}
kind: NetworkPolicy
metadata:
  {{- include "standpipe.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "standpipe.selectorLabels" . | nindent 6 }}
  policyTypes: {{ toJson (ternary (list "Ingress" "Egress") (list "Ingress") (or .denyEgress (not (empty $policy.egress)))) }}
  {{- if or .peers $policy.metricsFrom }}
  ingress:
  {{- with .peers }}
  - ports:
    - port: grpc
      protocol: TCP
    from:
      {{- toYaml . | nindent 6 }}
  {{- end }}
  {{- with $policy.metricsFrom }}
  - ports:
    - port: http
      protocol: TCP
    from:
      {{- toYaml . | nindent 6 }}
  {{- end }}
  {{- else }}
  ingress: []
  {{- end }}
  {{- with $policy.egress }}
  egress:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
