{{/*
Names, labels and the parts of a container, for all components.

Most of these take a UNIT, a dict of
  root       the chart's context ($; of a parent chart: .Subcharts.standpipe)
  component  "shared", "embedder", "worker" or "migration"; for names and settings also "sidecar"
  values     that component's section of the values

The native sidecar's container, in somebody else's pod, has a file of its own: _container.tpl.
*/}}

{{- define "standpipe.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, and the chart's where that does not say it. Room is left for "-migration-12345678". */}}
{{- define "standpipe.fullname" -}}
{{- $name := include "standpipe.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{/* UNIT: what the component's objects are called. */}}
{{- define "standpipe.componentName" -}}
{{- printf "%s-%s" (include "standpipe.fullname" .root) .component -}}
{{- end -}}

{{/* UNIT: what selects the component's pods; it never changes. */}}
{{- define "standpipe.selectorLabels" -}}
app.kubernetes.io/name: {{ include "standpipe.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* UNIT, with `labels` beside everybody's: an object's labels. */}}
{{- define "standpipe.labels" -}}
{{- $own := include "standpipe.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") | trunc 63) -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "standpipe" -}}
{{- merge $own (.labels | default dict) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* UNIT, with `name` where it is not the component's, `labels` and `annotations` beside everybody's: an object's head. */}}
{{- define "standpipe.metadata" -}}
name: {{ .name | default (include "standpipe.componentName" .) }}
{{- if not .clusterWide }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "standpipe.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* UNIT, with `annotations` of the chart's own: the head of a pod in a template. */}}
{{- define "standpipe.podMetadata" -}}
{{- $pod := include "standpipe.pod" . | fromYaml -}}
labels:
  {{- include "standpipe.labels" (merge (dict "labels" $pod.labels) .) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) $pod.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* root and gpu, whether a GPU computes: the image. A digest needs no tag, and wins over one. */}}
{{- define "standpipe.imageOf" -}}
{{- $image := ternary .root.Values.gpuImage .root.Values.image .gpu -}}
{{- $own := printf "%s-%s" .root.Chart.AppVersion (ternary "cuda13" "cpu" .gpu) -}}
{{- $image.repository -}}
{{- with $image.tag | default (ternary "" $own (not (empty $image.digest))) }}:{{ . }}{{ end -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* UNIT: whether a GPU computes. */}}
{{- define "standpipe.gpu" -}}
{{- if and (eq .component "embedder") .values.gpu.enabled -}}true{{- end -}}
{{- end -}}

{{/* UNIT: a container's image, and when it is pulled. */}}
{{- define "standpipe.image" -}}
{{- $gpu := not (empty (include "standpipe.gpu" .)) -}}
image: {{ include "standpipe.imageOf" (dict "root" .root "gpu" $gpu) | quote }}
imagePullPolicy: {{ (ternary .root.Values.gpuImage .root.Values.image $gpu).pullPolicy }}
{{- end -}}

{{/* UNIT: what the values say of the component's pod: `pods`, but what its own `pod` names. */}}
{{- define "standpipe.pod" -}}
{{- $pod := deepCopy .root.Values.pods -}}
{{- range $name, $value := .values.pod }}{{- $_ := set $pod $name $value }}{{- end -}}
{{- toYaml $pod -}}
{{- end -}}

{{/* UNIT: whether the component opens the stores. */}}
{{- define "standpipe.opensStores" -}}
{{- if has .component (list "shared" "worker" "sidecar") -}}true{{- end -}}
{{- end -}}

{{/* UNIT: a container's environment, as a list. No name occurs twice: Helm 4 refuses that, and so does sense. */}}
{{- define "standpipe.env" -}}
{{- $own := include "standpipe.ownEnv" . | fromYamlArray -}}
{{- $names := list -}}
{{- range $own }}{{- $names = append $names .name }}{{- end -}}
{{- $extra := (include "standpipe.pod" . | fromYaml).extraEnv | default list -}}
{{- range $extra -}}
  {{- if has .name $names -}}
    {{- fail (printf "%s.pod.extraEnv: %s is there twice, or is set by the chart from its own value" $.component .name) -}}
  {{- end -}}
  {{- $names = append $names .name -}}
{{- end -}}
{{- toYaml (concat $own $extra) -}}
{{- end -}}

{{- define "standpipe.ownEnv" -}}
{{- $values := .root.Values -}}
{{- if eq .component "migration" -}}
- name: STANDPIPE_RECORD
  valueFrom:
    secretKeyRef:
      name: {{ .values.existingSecret }}
      key: {{ .values.key }}
{{- else -}}
- name: STANDPIPE_CONFIG
  value: /etc/standpipe/config.yaml
{{- if include "standpipe.opensStores" . }}
{{- with $values.record.existingSecret }}
- name: STANDPIPE_RECORD
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $values.record.key }}
{{- end }}
{{- if $values.hot.existingSecret }}
- name: STANDPIPE_HOT
  valueFrom:
    secretKeyRef:
      name: {{ $values.hot.existingSecret }}
      key: {{ $values.hot.key }}
{{- else if $values.hot.address }}
- name: STANDPIPE_HOT
  value: {{ $values.hot.address | quote }}
{{- end }}
{{- end }}
{{- with (include "standpipe.given" . | fromYaml).models_dir }}
# The image's own environment names its models, and would win over the file.
- name: STANDPIPE_MODELS_DIR
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* UNIT: where a container's files come from. */}}
{{- define "standpipe.volumes" -}}
{{- $values := .root.Values -}}
{{- if ne .component "migration" }}
- name: standpipe-config
  configMap:
    name: {{ include "standpipe.componentName" . }}
{{- if and $values.encryption.existingSecret (include "standpipe.opensStores" .) }}
- name: standpipe-keys
  secret:
    secretName: {{ $values.encryption.existingSecret }}
    defaultMode: 0440
    items:
    - key: {{ $values.encryption.key }}
      path: standpipe.keys
{{- end }}
{{- if and (include "standpipe.opensStores" .) $values.embedderClient.existingSecret }}
- name: standpipe-embedder-tls
  secret:
    secretName: {{ $values.embedderClient.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with (.values.tls | default dict).existingSecret }}
- name: standpipe-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- include "standpipe.authVolumes" . }}
{{- with (.values.extraction | default dict).existingSecret }}
- name: standpipe-extractor
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
    - key: {{ $.values.extraction.key }}
      path: key
{{- end }}
- name: standpipe-tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with (include "standpipe.pod" . | fromYaml).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* UNIT: where a container sees them. */}}
{{- define "standpipe.volumeMounts" -}}
{{- $values := .root.Values -}}
{{- if ne .component "migration" }}
- name: standpipe-config
  mountPath: /etc/standpipe/config.yaml
  subPath: config.yaml
  readOnly: true
{{- if and $values.encryption.existingSecret (include "standpipe.opensStores" .) }}
- name: standpipe-keys
  mountPath: /etc/standpipe/keys
  readOnly: true
{{- end }}
{{- if and (include "standpipe.opensStores" .) $values.embedderClient.existingSecret }}
- name: standpipe-embedder-tls
  mountPath: /etc/standpipe/embedder-tls
  readOnly: true
{{- end }}
{{- if (.values.tls | default dict).existingSecret }}
- name: standpipe-tls
  mountPath: /etc/standpipe/tls
  readOnly: true
{{- end }}
{{- end }}
{{- include "standpipe.authVolumeMounts" . }}
{{- if (.values.extraction | default dict).existingSecret }}
- name: standpipe-extractor
  mountPath: /etc/standpipe/extractor
  readOnly: true
{{- end }}
- name: standpipe-tmp
  mountPath: /tmp
{{- with (include "standpipe.pod" . | fromYaml).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
UNIT: startup, readiness and liveness. They are HTTP and not gRPC: a kubelet's gRPC probe dials the pod's address in plain
text, which neither a socket nor TLS answers.
*/}}
{{- define "standpipe.probes" -}}
startupProbe:
  httpGet:
    path: /startupz
    port: http
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: {{ .values.startupSeconds | int }}
readinessProbe:
  httpGet:
    path: /readyz
    port: http
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet:
    path: /livez
    port: http
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/*
UNIT, with `kind`: an object's API version: what the values say of this kind, else what the cluster's release has.
*/}}
{{- define "standpipe.apiVersion" -}}
{{- $known := dict
    "deployment" "apps/v1"
    "job" "batch/v1"
    "podDisruptionBudget" "policy/v1"
    "horizontalPodAutoscaler" "autoscaling/v2"
    "networkPolicy" "networking.k8s.io/v1"
    "clusterRoleBinding" "rbac.authorization.k8s.io/v1"
    "resourceClaimTemplate" (ternary "resource.k8s.io/v1" "resource.k8s.io/v1beta2" (semverCompare ">=1.34-0" .root.Capabilities.KubeVersion.Version))
    "scaledObject" "keda.sh/v1alpha1"
    "podMonitor" "monitoring.coreos.com/v1"
    "serviceMonitor" "monitoring.coreos.com/v1"
    "prometheusRule" "monitoring.coreos.com/v1"
    "mutatingAdmissionPolicy" (ternary "admissionregistration.k8s.io/v1" "admissionregistration.k8s.io/v1beta1" (semverCompare ">=1.36-0" .root.Capabilities.KubeVersion.Version))
    "validatingAdmissionPolicy" "admissionregistration.k8s.io/v1"
-}}
{{- get .root.Values.apiVersions .kind | default (get $known .kind) -}}
{{- end -}}
